"""Draws what a run has learnt: `python examples/before_and_after.py NAME TRAIN_BETON TEST_BETON PICTURE`.

The picture sets the run's encoder beside itself before training: the map of the test images, the nearest training
images of one test image of each class, and the accuracy of the weighted kNN.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.storage import StorageSettings
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.evaluation.plots import Encoded, draw_comparison
from metaug_ray.knn import nearest_neighbours, vote

NEAREST_SHOWN = 6


def read(beton, size):
    """All images uint8 [N, 3, S, S] of a beton, and their labels [N]."""
    batches = list(EvaluationLoader(beton, 256, size, cpus=os.cpu_count(), device=torch.device("cpu")))
    valid = torch.cat([batch.valid for batch in batches])
    return (torch.cat([getattr(batch, part) for batch in batches])[valid] for part in ("images", "labels"))


def represent(encoder, images):
    """Representations [N, H] of images, a part of them at a time."""
    return torch.cat([encoder(part) for part in images.split(256)])


def encode(reference, title):
    """What the encoder that `reference` names makes of the images, with its kNN accuracy in the title."""
    encoder = find_encoder(reference, storage, "").encoder
    references, tests = represent(encoder, train_images), represent(encoder, test_images)
    cosines, places = nearest_neighbours([references], tests, knn.neighbours)
    accuracy = (vote(cosines, places, train_labels, len(classes), knn.temperature) == test_labels).float().mean()
    nearest = places[shown, :NEAREST_SHOWN]
    right = train_labels[nearest] == test_labels[shown, None]
    title = f"{title}: kNN accuracy {accuracy:.1%}"
    print(title, flush=True)
    return Encoded(title, tests.numpy(), train_images[nearest].movedim(2, -1).numpy(), right.numpy())


name, train, test, picture = sys.argv[1], *map(Path, sys.argv[2:])
storage = os.environ.get("METAUG_STORAGE", StorageSettings().storage)
knn = KnnSettings()
classes = read_manifest(train).classes
size = find_encoder(f"run:{name}", storage, "").description.image_size
train_images, train_labels = read(train, size)
test_images, test_labels = read(test, size)
shown = torch.from_numpy(np.unique(test_labels, return_index=True)[1])  # the first of each class
encoders = [encode(f"random:{name}", "before training"), encode(f"run:{name}", "after training")]
draw_comparison(encoders, test_labels.numpy(), test_images[shown].movedim(1, -1).numpy(), classes, picture)
print(f"picture: {picture.absolute()}")
