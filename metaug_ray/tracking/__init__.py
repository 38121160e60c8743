"""MLflow: `runs`, which a `journal` on disk feeds, their `figures` and `environment`."""
