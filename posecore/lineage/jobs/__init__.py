"""Jobs as lists of steps, which are run once and recorded with the contents that they read and made."""
