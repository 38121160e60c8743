"""Judges a frozen encoder by labelled images: `python jobs/evaluate_encoder.py --help`."""

import sys

from metaug_ray.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
