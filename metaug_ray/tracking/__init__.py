"""MLflow: runs, registry, exported encoders."""
