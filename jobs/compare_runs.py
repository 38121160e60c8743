"""Compares all evaluated runs: `python jobs/compare_runs.py --help`."""

import sys

from metaug_ray.evaluation.command import compare_main

if __name__ == "__main__":
    sys.exit(compare_main(sys.argv[1:]))
