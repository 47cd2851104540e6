"""Models in formats that other programs run, and in runtimes other than PyTorch."""
