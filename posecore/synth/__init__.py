"""Procedural bodies, rendered and written in the native formats of real datasets."""
