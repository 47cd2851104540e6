"""One runnable file per job, read top to bottom; the only place that knows Ray."""
