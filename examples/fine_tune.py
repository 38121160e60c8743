"""Fine-tunes a registered encoder on labelled images: `python examples/fine_tune.py models:/NAME@champion BETON`."""

import sys
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.tracking.encoders import load_encoder

model, beton = sys.argv[1], Path(sys.argv[2])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

encoder = load_encoder(model, "sqlite:///~/metaug_ray/mlflow.db").to(device)
first = next(iter(encoder.encoders.values()))  # the network of one view; those of others stay frozen
first.requires_grad_(True).train()
classifier = nn.LazyLinear(len(read_manifest(beton).classes), device=device)
images = EvaluationLoader(beton, batch_size=32, image_size=64, cpus=1, device=device)
classifier(encoder(next(iter(images)).images))  # tells the layer the size of a representation

optimizer = torch.optim.SGD([*first.parameters(), *classifier.parameters()], lr=0.01, momentum=0.9)
for step, batch in enumerate(islice(images, 3)):
    loss = F.cross_entropy(classifier(encoder(batch.images)[batch.valid]), batch.labels[batch.valid])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")
