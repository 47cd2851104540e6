"""The model registry: how a model becomes a version, and what it must show before an alias moves to it."""
