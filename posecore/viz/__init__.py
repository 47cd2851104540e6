"""Overlays, galleries and reports."""
