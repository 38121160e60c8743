"""Checks a Ray cluster before a long run: `python jobs/check_cluster.py --help`."""

import sys

from metaug_ray.commands.check_cluster import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
