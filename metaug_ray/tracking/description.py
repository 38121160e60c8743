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
        settings = {name: value for name, value in self.settings.items() if name not in ("name", "seed")}
        # Untrained networks depend on nothing else.
        known = [settings, self.data_sha256] if self.step else [self.settings["model"]]
        text = json.dumps(known, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def seed(self) -> int:
        """Of the training run."""
        return int(self.settings.get("seed", 0))

    def build(self) -> FrozenEncoder:
        """The networks, without their weights."""
        model = self.model
        return FrozenEncoder(model.views, model.encoder, width=model.width, small_images=model.small_images)
