"""Writes images as a verified beton: `python jobs/prepare_data.py --help`."""

import sys

if __name__ == "__main__":
    # Imported here because the processes that decode import this file too, and need none of it.
    from metaug_ray.commands.prepare_data import main

    sys.exit(main(sys.argv[1:]))
