"""Named starting points: what differs from the defaults, which are the paper's ImageNet ResNet-50 setting."""

from typing import Any, Final, Literal

from metaug_ray.choices import check_complete
from metaug_ray.config.two_crops import cifar10, imagenet

PresetName = Literal[
    "imagenet_resnet50",
    "imagenet_metaug_fast",
    "imagenet_metaug_star",
    "imagenet_nnclr",
    "imagenet_simclr",
    "cifar10_metaug_star",
    "cifar10_nnclr",
    "cifar10_simclr",
    "recommended",
    "demo",
]

PRESETS: Final[dict[PresetName, dict[str, Any]]] = {
    "imagenet_resnet50": {},
    # The meta step that costs least among those whose kNN does not differ (docs/performance.md).
    "imagenet_metaug_fast": {
        "name": "imagenet_metaug_fast",
        "method": {"meta": {"schedule": "lookahead", "share": 0.25, "keep_activations": True}},
    },
    "imagenet_metaug_star": imagenet("imagenet_metaug_star", "neighbours"),
    "imagenet_nnclr": imagenet("imagenet_nnclr", "neighbours", plain=True),
    "imagenet_simclr": imagenet("imagenet_simclr", "batch", plain=True),
    "cifar10_metaug_star": cifar10("cifar10_metaug_star", "neighbours"),
    "cifar10_nnclr": cifar10("cifar10_nnclr", "neighbours", plain=True),
    "cifar10_simclr": cifar10("cifar10_simclr", "batch", plain=True),
    # CMC as it did best in docs/results.md, for at most half of MetAug's time; else as the paper. Found with a small
    # encoder, 10,000 images and 20 epochs: a place to begin from, not one that was tried at this size.
    "recommended": {
        "name": "recommended",
        "method": {"contrast": "info_nce", "generators": False, "info_nce": {"temperature": 0.17}},
        "bank": {"momentum": 0.98, "initial": "features"},
    },
    # About five minutes on two CPU cores.
    "demo": {
        "name": "demo",
        "data": {
            "beton": "data/shapes.beton",
            "image_size": 64,
            "augmentation": {"crop_scale": (0.4, 1.0)},
        },
        "model": {"views": ("l", "ab"), "encoder": "conv", "width": 0.5},
        "method": {"contrast": "info_nce", "generator_hidden_size": 512, "meta": {"every": 10}},
        # An epoch has few steps, and moves the encoders far. With the default momentum an image's own row would be far
        # from most others for its age alone, and telling old rows from new ones would be all that the encoders learn.
        "bank": {"negatives": 512, "momentum": 0.95, "initial": "features"},
        "training": {
            "epochs": 48,
            "batch_size": 128,
            "precision": "float32",
            "encoder": {"kind": "adam", "learning_rate": 1e-3},
            "head": {"kind": "adam", "learning_rate": 1e-3},
            "generator": {"kind": "adam", "learning_rate": 1e-3},
            "schedule": {"kind": "cosine"},
        },
        "compute": {"workers": 2},
        "checkpoint": {"every_minutes": 1.0},
        "health": {"log_every": 64, "knn": {"every": 8}},
    },
}
check_complete("PRESETS", PRESETS, PresetName)


def with_targets(name: PresetName, targets: str | None) -> dict[str, Any]:
    """A preset's settings; where other targets were chosen than its own, without those that its own alone have.

    Args:
        name: of the preset.
        targets: `method.targets`, if chosen.
    """
    preset = PRESETS[name]
    own = preset.get("method", {}).get("targets", "bank")
    if targets in (None, own):
        return preset
    kept = {part: values for part, values in preset.items() if part not in ("bank", "support")}
    if "model" in kept:
        kept["model"] = {key: value for key, value in kept["model"].items() if key != "prediction_hidden_size"}
    return kept
