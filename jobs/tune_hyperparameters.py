"""Searches settings of the main job, and compares what it found: `python jobs/tune_hyperparameters.py --help`."""

import sys

from metaug_ray.commands.tune import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
