"""Publishes a run's encoder in MLflow's registry: `python jobs/register_encoder.py --help`."""

import sys

from metaug_ray.evaluation.command import register_main

if __name__ == "__main__":
    sys.exit(register_main(sys.argv[1:]))
