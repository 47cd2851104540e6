"""Protocols, metrics and tables."""
