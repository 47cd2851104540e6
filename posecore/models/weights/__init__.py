"""Reading and writing the checkpoint files that others have published."""
