"""Judges a frozen encoder by labelled images: `python jobs/evaluate_encoder.py --help`."""

import sys

from metaug_ray.evaluation.command import evaluate_main

if __name__ == "__main__":
    sys.exit(evaluate_main(sys.argv[1:]))
