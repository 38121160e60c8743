"""Takes four training steps on random images with PyTorch alone: `python examples/first_steps.py`."""

from functools import partial

import torch

from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.views import split_views

views = ("rgb", "l", "ab")
images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)  # your data set

encoder = MultiViewEncoder(views, "conv", width=0.5, small_images=True)
generators = Generators(len(views), hidden_size=512)
objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=1e-5, alpha=1e-13)
metaug = MetAug(
    Model(encoder, generators, objective),
    MemoryBank(len(images), len(views), negatives=32),
    torch.optim.SGD(encoder.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4),
    torch.optim.SGD(generators.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4),
    MetaStep(schedule="fused", virtual_learning_rate=1e-3),
)
for step, indices in enumerate(torch.randperm(len(images)).split(16)):
    outcome = metaug.step(step, Minibatch(split_views(images[indices], views), indices))
    print(f"step {step}: loss {outcome.losses.total:.4f}")

encoder.eval()
with torch.no_grad():
    representations = encoder(split_views(images[:8], views)).representations
print("representations of eight images in three views:", tuple(representations.shape))
