"""Real images for a bare GPU machine: `python -m tests.gpu.images FILE`, to be run where the package is installed.

CIFAR-10's as PNG bytes, and ImageNet's sample as pixels, in one file that PyTorch and torchvision alone can read.
"""

import argparse
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

SHARED: Final = Path("../shared/data")
SIDE: Final = 224
"""Of ImageNet's central squares, in pixels."""


def load_cifar10(file: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N]."""
    stored = torch.load(file, map_location="cpu", weights_only=True)[split]
    ends = stored["ends"].tolist()
    parts = [stored["png"][start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return torch.stack([decode_image(part, ImageReadMode.RGB) for part in parts]), stored["labels"]


def load_imagenet_sample(file: Path) -> Tensor:
    """Images uint8 [N, 3, 224, 224]."""
    images: Tensor = torch.load(file, map_location="cpu", weights_only=True)["imagenet"]
    return images


def _cifar10(split: str, count: int) -> dict[str, Tensor]:
    import pyarrow.parquet as pq

    table = pq.read_table(SHARED / "cifar10" / f"{split}.parquet").slice(0, count)
    images = [image["bytes"] for image in table["image"].to_pylist()]
    return {
        "png": torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8),
        "ends": torch.tensor([len(image) for image in images]).cumsum(0),
        "labels": torch.tensor(table["label"].to_pylist()),
    }


def _imagenet() -> Tensor:
    from PIL import Image, ImageOps

    squares = [
        ImageOps.fit(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), (SIDE, SIDE))
        for path in sorted((SHARED / "imagenet_sample").rglob("*.*"))
    ]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--train", type=int, default=30_000, help="images of CIFAR-10 to train on")
    parser.add_argument("--test", type=int, default=6_000, help="images of CIFAR-10 to test on")
    options = parser.parse_args()
    made: dict[str, Any] = {
        "train": _cifar10("train", options.train),
        "test": _cifar10("test", options.test),
        "imagenet": _imagenet(),
    }
    options.file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made, options.file)
    print(f"{options.file}: {options.file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
