"""What labels say about bodies and about themselves: proportions, plausibility, suspicious labels."""
