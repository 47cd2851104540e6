"""Heads: a grid of features to what a codec reads, and the door to all of them."""
