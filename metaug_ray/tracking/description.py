"""What is known of an encoder: enough to build it again, and to say where it is from."""

import hashlib
import json
from typing import Any

from pydantic import Field

from metaug_ray.config import ModelSettings, Settings
from metaug_ray.method.frozen import FrozenEncoder


class EncoderDescription(Settings):
    """An encoder and its origin. Goes with the encoder wherever it goes."""

    model: ModelSettings
    """the networks"""
    image_size: int = Field(ge=1)
    """side in pixels of the images that it was trained on"""
    variant: str
    """of the method, by the paper's name"""
    run: str
    """name of the training run"""
    run_id: str | None
    """its MLflow run; none if it had none"""
    checkpoint: str
    """where the weights were read, or how they were drawn"""
    step: int = Field(ge=0)
    """training steps made; 0: untrained"""
    epochs: float = Field(ge=0)
    """passes over the training data made"""
    data_name: str
    """file name of the training data"""
    data_sha256: str
    """checksum of the training data"""
    settings: dict[str, Any]
    """all settings of the run that results depend on"""

    @property
    def config_hash(self) -> str:
        """Of the settings and the data: two runs that share it differ in nothing that results depend on but seeds."""
        text = json.dumps(self.deciding, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def deciding(self) -> dict[str, Any]:
        """What :attr:`config_hash` is of, nested."""
        if not self.step:  # untrained networks depend on nothing else
            return {"model": self.settings["model"]}
        settings = {name: value for name, value in self.settings.items() if name not in ("name", "seed")}
        return settings | {"data_sha256": self.data_sha256}

    @property
    def networks(self) -> str:
        """In a few words."""
        model = self.model
        width = "" if model.width == 1 else f" x{model.width:g}"
        small = " (small images)" if model.small_images else ""
        return f"{model.encoder}{width}{small}, {'+'.join(model.views)}"

    @property
    def seed(self) -> int:
        """Of the training run."""
        return int(self.settings.get("seed", 0))

    def build(self) -> FrozenEncoder:
        """The networks, without their weights."""
        model = self.model
        return FrozenEncoder(model.views, model.encoder, width=model.width, small_images=model.small_images)
