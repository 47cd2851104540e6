"""Which code a run had: its version, what no commit says of it, and the code itself in a file."""
