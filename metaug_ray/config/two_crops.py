"""Starting points with two crops and one encoder: SimCLR, NNCLR and MetAug*, by the papers' settings."""

from typing import Any, Final, Literal

_Targets = Literal["batch", "neighbours"]

_VIEWS: Final = ("rgb", "rgb.2")
_HEADS: Final[dict[_Targets, dict[str, Any]]] = {
    "batch": {"layers": 2},
    "neighbours": {"layers": 3, "output_norm": True},
}
"""Projection heads of SimCLR and of NNCLR."""
_LARS: Final = {"kind": "lars", "learning_rate": 4.8, "weight_decay": 1e-6, "decay_norm_and_bias": False}
"""0.3 for each 256 images of a batch of 4096."""


def _jitter(brightness: float, contrast: float, saturation: float, hue: float) -> dict[str, float]:
    return {
        "probability": 0.8,
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }


def _byols(blur: float, solarize: float) -> dict[str, Any]:
    """One of BYOL's two crops, which NNCLR took over."""
    colors = {"color_jitter": _jitter(0.4, 0.4, 0.2, 0.1), "grayscale": 0.2}
    return {"crop_scale": (0.08, 1.0), **colors, "blur": blur, "solarize": solarize}


_DATA: Final[dict[_Targets, dict[str, Any]]] = {
    "batch": {
        "augmentation": {
            "crop_scale": (0.08, 1.0),
            "color_jitter": _jitter(0.8, 0.8, 0.8, 0.2),
            "grayscale": 0.2,
            "blur": 0.5,
        }
    },
    "neighbours": {"augmentation": _byols(1.0, 0.0), "second_augmentation": _byols(0.1, 0.2)},
}
"""What SimCLR and NNCLR do to ImageNet's images."""


def _method(targets: _Targets, plain: bool, temperature: float) -> dict[str, Any]:
    """MetAug on these targets; or, `plain`, the method that it stands on."""
    if not plain:
        return {"targets": targets}
    return {
        "targets": targets,
        "contrast": "info_nce",
        "info_nce": {"temperature": temperature},
        "generators": False,
    }


def imagenet(name: str, targets: _Targets, *, plain: bool = False) -> dict[str, Any]:
    """As the papers train a ResNet-50 on ImageNet (table 3).

    Args:
        name: of the run.
        targets: what images are compared with.
        plain: whether without MetAug.
    """
    return {
        "name": name,
        "data": _DATA[targets],
        "model": {
            "views": _VIEWS,
            "feature_size": 128 if targets == "batch" else 256,
            "head": _HEADS[targets],
        },
        "method": _method(targets, plain, 0.1),
        "training": {
            "epochs": 1000,
            "batch_size": 4096,
            "sync_batch_norm": True,
            "encoder": _LARS,
            "head": _LARS,
            "schedule": {"kind": "cosine", "warmup_epochs": 10},
        },
    }


def cifar10(name: str, targets: _Targets, *, plain: bool = False) -> dict[str, Any]:
    """Small: a half ResNet-18 on images of 32 px, without blur, which would leave little of them (Chen et al. 2020,
    appendix B.9).

    Args:
        name: of the run.
        targets: what images are compared with.
        plain: whether without MetAug.
    """
    adam = {"kind": "adam", "learning_rate": 1e-3, "weight_decay": 1e-6}
    return {
        "name": name,
        "data": {
            "beton": "data/cifar10.beton",
            "image_size": 32,
            "augmentation": {
                "crop_scale": (0.2, 1.0),
                "color_jitter": _jitter(0.4, 0.4, 0.4, 0.1),
                "grayscale": 0.2,
            },
        },
        "model": {
            "views": _VIEWS,
            "encoder": "resnet18",
            "width": 0.5,
            "small_images": True,
            "head": _HEADS[targets] | {"hidden_size": 512},
        }
        | ({"prediction_hidden_size": 512} if targets == "neighbours" else {}),
        "method": _method(targets, plain, 0.2) | ({} if plain else {"generator_hidden_size": 512}),
        "training": {
            "epochs": 100,
            "batch_size": 256,
            "precision": "float32",
            "encoder": adam,
            "head": adam,
            "generator": adam,
            "schedule": {"kind": "cosine", "warmup_epochs": 5},
        },
        "health": {"knn": {"every": 10, "beton": "data/cifar10_test.beton"}},
    } | ({"support": {"size": 16_384}} if targets == "neighbours" else {})
