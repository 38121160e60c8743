"""What is known of an encoder: enough to build it again, and to say where it is from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from metaug_ray.config.base import Settings
from metaug_ray.config.model import ModelSettings
from metaug_ray.config.recorded import read_fixed
from metaug_ray.method.frozen import FrozenEncoder


class EncoderDescription(Settings):
    """An encoder and its origin. Goes with the encoder wherever it goes."""

    model: ModelSettings
    """the networks"""
    image_size: int = Field(ge=1)
    """side in pixels of the images that it was trained on"""
    variant: str
    """the method, by the paper's name"""
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
        """Hash of the settings and the data: two runs that share it differ in nothing that results depend on but
        seeds."""
        return hash_settings(self.deciding)

    @property
    def deciding(self) -> dict[str, Any]:
        """What :attr:`config_hash` is of, nested."""
        if not self.step:  # untrained networks depend on nothing else
            return read_deciding({"model": self.settings["model"]})
        return read_deciding(self.settings | {"data_sha256": self.data_sha256})

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


def hash_settings(settings: Any) -> str:
    """Hash of nested settings: equal for equal ones."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def read_deciding(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a result depends on but for its seed, in this version's form, from a record of any version.

    Args:
        recorded: the fixed settings of a run, with `fork` and `data_sha256`; of untrained networks `model` alone.
    """
    deciding = {name: value for name, value in recorded.items() if name not in ("name", "seed")}
    # A warm start is another run than the same settings from the beginning.
    beside = {name: deciding.get(name) for name in ("fork", "data_sha256")}
    try:
        if set(deciding) == {"model"}:
            return {"model": ModelSettings.model_validate(deciding["model"]).model_dump(mode="json")}
        fixed = read_fixed({name: value for name, value in deciding.items() if name not in beside})
    except ValidationError:  # a later version's, or of an encoder that somebody added
        return deciding
    # Another random order is no more than another seed.
    del fixed["name"], fixed["seed"], fixed["data"]["order"]
    return fixed | beside
