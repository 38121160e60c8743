"""Trains two steps with what `docs/extending.md` adds; the test runs it with the copy of the package that has it."""

import sys
from pathlib import Path

import torch

from metaug_ray.config import PretrainSettings
from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.private import export_for_any_size
from metaug_ray.training.beton_batches import open_batches
from metaug_ray.training.loop import train
from metaug_ray.training.state import build_state


class Printer:
    def metrics(self, step, values):
        print(step, values)

    def histograms(self, step, values):
        pass

    def note(self, text):
        pass

    def save(self, state, metrics):
        pass


settings = PretrainSettings.model_validate(
    {
        "data": {"beton": sys.argv[1], "image_size": 32},
        "model": {"views": ("l", "ab"), "encoder": "four_blocks", "width": 0.5, "small_images": True},
        "method": {"contrast": "triplet", "triplet": {"margin": 0.3}, "generator_hidden_size": 16, "delta": 0.1},
        "bank": {"negatives": 16},
        "training": {"epochs": 1, "batch_size": 48, "precision": "float32"},
        "health": {"log_every": 1, "knn": {"every": 0}},
    }
)
device = torch.device("cpu")
batches = open_batches(settings, Path(sys.argv[1]), cpus=1, device=device)
state = build_state(settings, batches.samples, device)
train(settings, state, batches, Printer(), device=device)

frozen = FrozenEncoder(("l", "ab"), "four_blocks", width=0.5, small_images=True)
for view, encoder in state.metaug.model.eager_encoder.encoders.items():
    frozen.encoders[view].load_state_dict(encoder.state_dict())
sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
example = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
with export_for_any_size():
    exported = torch.export.export(frozen, (example,), dynamic_shapes=(sizes,)).module()
for count, height, width in ((5, 40, 24), (1, frozen.minimum_size, frozen.minimum_size)):
    images = torch.randint(256, (count, 3, height, width), dtype=torch.uint8)
    torch.testing.assert_close(exported(images), frozen(images), rtol=1e-4, atol=1e-5)
