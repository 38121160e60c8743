"""MLflow: training `runs`, which a `journal` on disk feeds; `evaluations`; `encoders` and their `registry`."""
