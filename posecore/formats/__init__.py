"""Readers of annotation formats: raw files in, records out."""
