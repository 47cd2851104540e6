"""Engine, loop, optimiser groups, checkpoints."""
