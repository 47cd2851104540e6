"""Adapting within a budget: strategies are tried, the better ones for longer, and the best one adapts the model."""
