"""Writes representations of a folder of images as Parquet: `python examples/embed.py models:/NAME@champion IN OUT`."""

import os
import sys
from pathlib import Path

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # without it, `uv run` makes each worker an environment of its own
import mlflow
import ray
import torch


class Embed:
    """Holds the encoder; Ray Data makes one on each of its workers."""

    def __init__(self, model):
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
        mlflow.set_tracking_uri(f"sqlite:///{Path.home()}/metaug_ray/mlflow.db")
        self.encoder = mlflow.pytorch.load_model(model)

    def __call__(self, batch):
        images = torch.from_numpy(batch.pop("image")).permute(0, 3, 1, 2)  # [B, H, W, 3] to [B, 3, H, W]
        return batch | {"representation": self.encoder(images).detach().numpy()}


if __name__ == "__main__":
    model, folder, output = sys.argv[1:]
    images = ray.data.read_images(str(Path(folder).absolute()), size=(64, 64), mode="RGB", include_paths=True)
    embedded = images.map_batches(Embed, fn_constructor_args=(model,), batch_size=32, concurrency=1)
    embedded.write_parquet(str(Path(output).absolute()))
