"""Whatever touches Ray: the only room that may import it."""
