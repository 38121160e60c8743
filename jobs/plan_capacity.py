"""Says what a run will need on so many GPUs: `python jobs/plan_capacity.py --help`."""

import sys

from metaug_ray.commands.plan_capacity import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
