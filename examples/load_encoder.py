"""Loads a registered encoder with mlflow and torch alone: `python examples/load_encoder.py models:/NAME@champion`."""

import os
import sys
from pathlib import Path

import mlflow
import torch

os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # an encoder is a graph and weights, and no pickle
mlflow.set_tracking_uri(f"sqlite:///{Path.home()}/metaug_ray/mlflow.db")
encoder = mlflow.pytorch.load_model(sys.argv[1])
images = torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)  # yours: RGB, any number of them
print("representations:", tuple(encoder(images).shape))
