"""The tracking store: where runs are recorded, what is written to them, and what is read back."""
