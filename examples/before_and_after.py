"""Draws what a run has learnt: `python examples/before_and_after.py NAME TRAIN_BETON TEST_BETON PICTURE`.

The picture sets the run's encoder beside itself before training: a map of test images, the nearest training images of
one test image of each class, and the accuracy of the weighted kNN on all test images. Runs are looked for where
METAUG_STORAGE says, else in the home folder.
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
from metaug_ray.data.sources.classes import other_classes
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.evaluation.plots import MOST_CLASSES, Encoded, draw_comparison
from metaug_ray.knn import nearest_neighbours, vote

MAPPED, QUERIES, NEIGHBOURS = 500, 8, 6


def read(beton, size):
    """The labelled images of a beton, uint8 [N, 3, S, S], and their labels [N]."""
    batches = list(EvaluationLoader(beton, 256, size, cpus=os.cpu_count(), device=torch.device("cpu")))
    images, labels = (torch.cat([getattr(batch, part) for batch in batches]) for part in ("images", "labels"))
    labelled = torch.cat([batch.valid for batch in batches]) & (labels >= 0)
    return images[labelled], labels[labelled]


def represent(encoder, images):
    """Representations [N, H] of images, a part of them at a time."""
    return torch.cat([encoder(part) for part in images.split(256)])


def encode(encoder, title):
    """What the encoder makes of the images, with its kNN accuracy in the title."""
    references, tests = represent(encoder, train_images), represent(encoder, test_images)
    cosines, places = nearest_neighbours([references], tests, knn.neighbours)
    accuracy = (vote(cosines, places, train_labels, len(classes), knn.temperature) == test_labels).float().mean()
    title = f"{title}: kNN accuracy {accuracy:.1%}"
    print(f"{title} on {test}", flush=True)
    nearest = places[queries, :NEIGHBOURS]
    right = train_labels[nearest] == test_labels[queries, None]
    return Encoded(title, tests[mapped].numpy(), train_images[nearest].movedim(2, -1).numpy(), right.numpy())


if len(sys.argv) != 5 or Path(sys.argv[4]).suffix != ".png":
    sys.exit("usage: before_and_after.py NAME TRAIN_BETON TEST_BETON PICTURE.png")
name, train, test, picture = sys.argv[1], *map(Path, sys.argv[2:])
storage, knn = os.environ.get("METAUG_STORAGE", StorageSettings().storage), KnnSettings()
classes, tested = read_manifest(train).classes, read_manifest(test).classes
if tested != classes:
    sys.exit(other_classes(tested, str(test), classes, str(train)))
before, after = (find_encoder(f"{which}:{name}", storage, None) for which in ("random", "run"))
size = after.description.image_size
(train_images, train_labels), (test_images, test_labels) = read(train, size), read(test, size)
if not len(train_labels) or len(test_labels) < 4:
    sys.exit(f"{train} or {test} has too few images with labels; the map needs 4")
# Betons may be sorted by class. Colours can tell so many classes apart.
shuffled = np.random.default_rng(0).permutation(len(test_labels))
mapped = torch.from_numpy(shuffled[test_labels[shuffled] < MOST_CLASSES][:MAPPED])
queries = torch.from_numpy(np.unique(test_labels, return_index=True)[1][:QUERIES])  # the first of each class
encoders = [encode(before.encoder, "before training"), encode(after.encoder, "after training")]
draw_comparison(
    encoders, test_labels[mapped].numpy(), test_images[queries].movedim(1, -1).numpy(), classes, picture.absolute()
)
print(f"picture: {picture.absolute()}")
