"""How an encoder was judged: all that its accuracies depend on besides itself."""

import ast
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from metaug_ray.config.base import Settings
from metaug_ray.config.evaluate import AugmentedProbeSettings, EvaluateSettings, ProbeSettings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.tracking.description import hash_settings

IMAGES: Final = "images"
"""The part of a protocol that all classifiers share."""

Protocol = Mapping[str, Mapping[str, Any]]
"""Settings of the `IMAGES`, and of each classifier by its name."""

_CLASSIFIERS: Final[Mapping[str, type[Settings]]] = {
    "knn": KnnSettings,
    "linear": ProbeSettings,
    "augmented_linear": AugmentedProbeSettings,
}
# More seeds and other shares beside make an accuracy no other one.
_OF_NO_ACCOUNT: Final = {"seeds", "label_shares"}


def make_protocol(settings: EvaluateSettings, *, train_sha256: str, test_sha256: str, image_size: int) -> Protocol:
    """The protocol of an evaluation.

    Args:
        settings: of the evaluation.
        train_sha256, test_sha256: of the betons.
        image_size: side in pixels of the square that the encoder sees.
    """
    images = {"train_sha256": train_sha256, "test_sha256": test_sha256, "image_size": image_size}
    images |= {"crop": settings.crop, "precision": settings.precision}
    chosen = {"knn": settings.knn, "linear": settings.probe, "augmented_linear": settings.augmented_probe}
    classifiers = {name: _that_count(part) for name, part in chosen.items() if part is not None}
    return {IMAGES: images} | classifiers


def read_protocol(flat: Mapping[str, str]) -> Protocol:
    """A protocol in this version's form, from what MLflow has of one that any version wrote.

    Args:
        flat: values as text, by dotted name.
    """
    protocol = nested(flat)
    for name, settings in _CLASSIFIERS.items():
        if name in protocol:
            try:
                protocol[name] = _that_count(settings.model_validate(protocol[name]))
            except ValidationError:  # a later version's
                continue
    return protocol


def hashes(protocol: Protocol) -> dict[str, str]:
    """Hashes by classifier, of its own settings and the images'; and of the images' alone."""
    return {
        name: hash_settings([protocol[IMAGES], {} if name == IMAGES else settings])
        for name, settings in protocol.items()
    }


def nested(flat: Mapping[str, str]) -> dict[str, Any]:
    """Settings as they were before MLflow made text of them, by `str`, under dotted names."""
    settings: dict[str, Any] = {}
    for path, text in flat.items():
        *parts, name = path.split(".")
        holder = settings
        for part in parts:
            holder = holder.setdefault(part, {})
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        # A checksum may look like a number.
        holder[name] = value if str(value) == text and not re.fullmatch(r"\d{64}", text) else text
    return settings


def _that_count(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude=_OF_NO_ACCOUNT)
