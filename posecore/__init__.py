"""Adapt foundation pose models to new bodies, from many datasets with many skeletons."""

__version__ = "0.1.0"
