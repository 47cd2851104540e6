"""MLflow runs, steps, dataset lineage, registry and promotion."""
