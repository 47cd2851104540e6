"""Annotations as Arrow tables: what a reader found, one row per image and one per body."""
