"""Reads augmented batches of a beton, and goes on in mid-epoch: `python examples/load_batches.py BETON`."""

import sys
from itertools import islice
from pathlib import Path

import torch

from metaug_ray.config import AugmentationSettings
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.data.staging import stage
from metaug_ray.method.views import split_views

# Copies the beton to a fast disk once and checks it there; the source may be a URI such as s3://bucket/train.beton.
beton = stage(sys.argv[1], Path("data/staged"))
loader = PretrainingLoader(
    beton,
    batch_size=32,
    image_size=32,
    augmentation=AugmentationSettings(grayscale=0.2),
    seed=0,
    cpus=1,
    device=torch.device("cpu"),
)
for step, batch in enumerate(islice(loader.epoch(3), 3)):
    lightness, colour = split_views(batch.images, ("l", "ab"))
    print(f"step {step}: images {batch.indices[:4].tolist()}..., l {list(lightness.shape)}, ab {list(colour.shape)}")

# What was interrupted goes on with exactly the batches that it would have had.
again = next(iter(loader.epoch(3, start_step=2)))
print("the third batch came back as it was:", torch.equal(again.images, batch.images))
