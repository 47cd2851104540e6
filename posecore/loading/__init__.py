"""Shards to batches: index, mixture sampler, crop, augmentation, exact resume."""
