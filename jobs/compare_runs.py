"""Compares all evaluated runs: `python jobs/compare_runs.py --help`."""

import sys

from metaug_ray.commands.compare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
