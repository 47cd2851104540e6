"""Files of results held against published annotations, by any protocol, without ingestion."""
