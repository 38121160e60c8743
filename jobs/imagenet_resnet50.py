"""Pre-trains encoders with MetAug on a Ray cluster: `python jobs/imagenet_resnet50.py --help`."""

import sys

from metaug_ray.commands.pretrain import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
