"""Labels and pre-labels as files of other tools."""
