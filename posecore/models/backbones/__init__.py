"""Backbones: crops to a grid of features, and the door to all of them."""
