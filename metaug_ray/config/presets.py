"""Named starting points: what differs from the defaults, which are the paper's ImageNet ResNet-50 setting."""

from typing import Any, Final, Literal

from metaug_ray.choices import check_complete

PresetName = Literal["imagenet_resnet50", "demo"]

PRESETS: Final[dict[PresetName, dict[str, Any]]] = {
    "imagenet_resnet50": {},
    # About five minutes on two CPU cores.
    "demo": {
        "name": "demo",
        "data": {
            "beton": "data/shapes.beton",
            "image_size": 32,
            "augmentation": {"crop_scale": (0.2, 1.0)},
        },
        "model": {"views": ("l", "ab"), "encoder": "resnet18", "width": 0.5},
        "method": {"contrast": "info_nce", "generator_hidden_size": 512, "meta": {"every": 10}},
        "bank": {"negatives": 512, "initial": "features"},
        "training": {
            "epochs": 12,
            "batch_size": 32,
            "precision": "float32",
            "encoder": {"kind": "adam", "learning_rate": 1e-3},
            "head": {"kind": "adam", "learning_rate": 1e-3},
            "generator": {"kind": "adam", "learning_rate": 1e-3},
            "schedule": {"kind": "constant"},
        },
        "compute": {"workers": 2},
        "checkpoint": {"every_minutes": 1.0},
        "health": {"log_every": 40, "knn": {"every": 4}},
    },
}
check_complete("PRESETS", PRESETS, PresetName)
