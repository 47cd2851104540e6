"""What came from what: the graph of contents and runs, and every question that is asked of it."""
