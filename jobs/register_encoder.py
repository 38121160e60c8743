"""Publishes a run's encoder in MLflow's registry: `python jobs/register_encoder.py --help`."""

import sys

from metaug_ray.commands.register import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
