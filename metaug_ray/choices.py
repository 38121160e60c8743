"""What a user may choose by name, and what is known of it without PyTorch: for settings and method alike."""

from typing import Any, Final, Literal, get_args

Color = Literal["rgb", "l", "ab", "y", "dbdr"]

COLOR_CHANNELS: Final[dict[Color, int]] = {"rgb": 3, "l": 1, "ab": 2, "y": 1, "dbdr": 2}
"""Channels of every colour space, or part of one, that an encoder may see."""

WIDTHS: Final = (0.5, 1.0, 2.0)
"""Multiples of all channels: those of CMC's ResNet v1, v2 and v3."""

MarginKind = Literal["large", "medium", "small"]
MarginScope = Literal["minibatch", "anchor"]

SourceKind = Literal["imagefolder", "parquet", "cifar10", "cifar100", "stl10", "tiny_imagenet", "shapes"]

SPLITS: Final[dict[SourceKind, tuple[str, ...]]] = {
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "stl10": ("unlabeled", "train", "test", "train+unlabeled"),
    "tiny_imagenet": ("train", "val", "test"),
}
"""Parts of the data sets that have some, the default first."""

OrderKind = Literal["permutation", "sort"]
"""How an epoch's images are shuffled. `permutation`: by a keyed permutation, of which a rank computes the images of
some steps alone. `sort`: all images, by a random number each, as earlier versions did."""

NegativeSampling = Literal["shared", "per_anchor"]

TargetKind = Literal["bank", "batch", "neighbours"]
"""What anchors are compared with: rows of the memory bank; the other views of the global batch (SimCLR); or the nearest
neighbours of the other view's features in a support set (NNCLR)."""

MetaSchedule = Literal["fused", "separate", "lookahead"]
"""`fused`: the meta step takes the regular step's minibatch and shares its gradient; encoders and generators step
together. `separate`: Algorithm 1 as printed: encoders step first, then the meta step takes its own minibatch.
`lookahead`: the encoders' step is the virtual one, and the next step's gradient tells what it was worth."""


def check_choice(what: str, value: str, names: Any) -> None:
    """Raise a ValueError that lists the names unless `value` is one of the `Literal` type `names`."""
    if value not in get_args(names):
        raise ValueError(f"unknown {what} {value!r}: choose from {', '.join(get_args(names))}")


def check_complete(table: str, keys: Any, names: Any) -> None:
    """Raise a TypeError, at import, where a table lacks one of the `Literal` type `names`, or has one more."""
    wrong = set(keys) ^ set(get_args(names))
    if wrong:
        raise TypeError(f"{table} and its names differ in {', '.join(sorted(wrong))}: add or remove them in both")
