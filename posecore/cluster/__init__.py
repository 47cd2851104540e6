"""Whatever touches Ray: the only room that may import it, and it does so when a cluster is wanted."""
