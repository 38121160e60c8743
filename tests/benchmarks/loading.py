"""How fast three-view batches come: `uv run python -m tests.benchmarks.loading`.

Side by side, in alternating rounds: what CMC's and the paper's code do (torchvision's ImageFolder and DataLoader, Lab
by scikit-image on the CPU), FFCV's own loader with its own random crops and nothing else, our loader, and our loader
with the three views that training makes on the device (here the CPU). All may use every CPU of this process.

The physical limit is the decoding of JPEG by libjpeg-turbo alone, on every CPU, without crop or copy; for raw pixels it
is the copying of the pixels.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from ffcv.fields.rgb_image import IMAGE_MODES, RandomResizedCropRGBImageDecoder
from ffcv.libffcv import imdecode
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from metaug_ray.config import AugmentationSettings, EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.beton import open_beton
from metaug_ray.data.cpus import available_cpus
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.data.prepare import open_source, prepare
from metaug_ray.method.views import split_views
from tests.conftest import SHARED

VIEWS = ("rgb", "l", "ab")
CPUS = available_cpus()
Epoch = Callable[[int], Iterable[object]]  # epoch number to batches


class LabViews:
    """An image as RGB and Lab, scaled to about [-1, 1], as CMC's transform makes them one image at a time."""

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor, Tensor]:
        rgb = np.asarray(image)
        lab = torch.from_numpy(rgb2lab(rgb).transpose(2, 0, 1)).float()
        return torch.from_numpy(rgb.transpose(2, 0, 1) / 127.5 - 1).float(), lab[:1] / 50 - 1, lab[1:] / 110


def torchvision_views(tree: Path, batch_size: int, size: int) -> Epoch:
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(size, scale=(0.2, 1.0)), transforms.RandomHorizontalFlip(), LabViews()]
    )
    loader = DataLoader(
        ImageFolder(str(tree), transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=CPUS,
        persistent_workers=True,
    )
    return lambda epoch: loader


def ffcv_crops(beton: Path, batch_size: int, size: int) -> Epoch:
    decoder = RandomResizedCropRGBImageDecoder((size, size), scale=(0.2, 1.0))
    loader = Loader(
        str(beton),
        batch_size,
        num_workers=CPUS,
        order=OrderOption.RANDOM,
        seed=0,
        pipelines={"image": [decoder, ToTensor()], "label": None},
    )
    return lambda epoch: loader


def our_batches(beton: Path, batch_size: int, size: int) -> Epoch:
    return PretrainingLoader(
        beton, batch_size, size, AugmentationSettings(), seed=0, cpus=CPUS, device=torch.device("cpu")
    ).epoch


def our_views(beton: Path, batch_size: int, size: int) -> Epoch:
    epoch_of = our_batches(beton, batch_size, size)

    def views(epoch: int) -> Iterator[object]:
        for batch in epoch_of(epoch):
            yield split_views(batch.images, VIEWS)

    return views


def decoding_alone(beton: Path, batch_size: int) -> Epoch:
    """Every stored JPEG decoded into a buffer of its thread; where all are pixels, the file copied piece by piece."""
    reader = open_beton(beton)
    content = np.memmap(beton, np.uint8, "r")
    fields, table = reader.metadata["f0"], reader.alloc_table
    buffers = [np.empty(4 << 20, np.uint8) for _ in range(CPUS)]

    def decode(thread: int) -> None:
        buffer = buffers[thread]
        for sample in range(thread, len(fields), CPUS):
            start, size = int(table["ptr"][sample]), int(table["size"][sample])
            field, data = fields[sample], content[start : start + size]
            height, width = int(field["height"]), int(field["width"])
            if field["mode"] == IMAGE_MODES["jpg"]:
                imdecode(data, buffer, height, width, height, width, 0, 0, 1, 1, False, False)
            else:
                np.copyto(buffer[:size], data)

    def copy(thread: int) -> None:
        buffer = buffers[thread]
        for start in range(thread * len(buffer), len(content), CPUS * len(buffer)):
            piece = content[start : start + len(buffer)]
            np.copyto(buffer[: len(piece)], piece)

    work = decode if (fields["mode"] == IMAGE_MODES["jpg"]).any() else copy

    def epoch(_: int) -> Iterator[object]:
        with ThreadPoolExecutor(CPUS) as pool:
            list(pool.map(work, range(CPUS)))
        return iter(range(len(fields) // batch_size))

    return epoch


def rate(epoch_of: Epoch, round_number: int, epochs: int, batch_size: int) -> float:
    """Images per second over whole epochs, the filling of the pipeline at their start included."""
    start, batches = time.perf_counter(), 0
    for epoch in range(epochs):
        batches += sum(1 for _ in epoch_of(round_number * epochs + epoch))
    return batches * batch_size / (time.perf_counter() - start)


def compare(title: str, rows: dict[str, Epoch], epochs: dict[str, int], batch_size: int, rounds: int) -> None:
    """Measures all rows in alternating rounds and prints medians and ratios of medians."""
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for round_number in range(rounds + 1):
        for name, epoch_of in rows.items():
            measured = rate(epoch_of, round_number, epochs.get(name, 1), batch_size)
            # The first round compiles FFCV's pipelines and starts the processes.
            if round_number:
                rates[name].append(measured)
            print(f"\r{title}: round {round_number} of {rounds}, {name:40}", end="", file=sys.stderr)
    print(file=sys.stderr)
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    first, bare = next(iter(medians.values())), medians["FFCV, bare random crops"]
    print(f"\n{title} ({CPUS} CPUs, {rounds} rounds)\n")
    print("| loader | images/s (least, greatest) | batches/s | to torchvision | to bare crops |")
    print("|---|---|---|---|---|")
    for name, median in medians.items():
        spread = f"{median:,.0f} ({min(rates[name]):,.0f}, {max(rates[name]):,.0f})"
        print(f"| {name} | {spread} | {median / batch_size:.1f} | {median / first:.2f} x | {median / bare:.2f} x |")


def imagenet_tree(folder: Path, repeats: int) -> Path:
    """The sample, each image linked several times."""
    for source in sorted((SHARED / "data" / "imagenet_sample").glob("*/*")):
        (folder / source.parent.name).mkdir(parents=True, exist_ok=True)
        for number in range(repeats):
            (folder / source.parent.name / f"{number}_{source.name}").symlink_to(source)
    return folder


def cifar_tree(folder: Path, count: int) -> Path:
    """CIFAR-10's test images as PNG files."""
    source = open_source(SourceSettings(kind="parquet", path=str(SHARED / "data" / "cifar10" / "test.parquet")))
    for number, record in enumerate(itertools.islice(source, count)):
        (folder / str(record.label)).mkdir(parents=True, exist_ok=True)
        if isinstance(record.image, bytes):
            (folder / str(record.label) / f"{number}.png").write_bytes(record.image)
    return folder


def run(title: str, tree: Path, source: SourceSettings, preset: str, batch_size: int, size: int, rounds: int) -> None:
    """Prepares the beton and compares the loaders over it."""
    with tempfile.TemporaryDirectory() as folder:
        beton = Path(folder) / f"{preset}.beton"
        encoding = EncodingSettings.model_validate({"preset": preset})
        prepare(PrepareSettings(source=source, encoding=encoding, output=beton))
        rows = {
            "torchvision, scikit-image Lab": torchvision_views(tree, batch_size, size),
            "FFCV, bare random crops": ffcv_crops(beton, batch_size, size),
            "ours": our_batches(beton, batch_size, size),
            "ours, three views": our_views(beton, batch_size, size),
            "decoding alone (the limit)": decoding_alone(beton, batch_size),
        }
        # At 32 px an epoch of the fast ones is over in less than a second.
        fast = 6 if size <= 64 else 2
        compare(title, rows, dict.fromkeys(list(rows)[1:3], fast), batch_size, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8, help="times that each ImageNet image is there")
    parser.add_argument("--cifar", type=int, default=10_000, help="CIFAR-10 images, as files for torchvision")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = imagenet_tree(folder / "imagenet", args.repeats)
        source = SourceSettings(kind="imagefolder", path=str(tree))
        for preset in ("imagenet", "imagenet-fast"):
            run(f"ImageNet, 224 px, preset {preset}", tree, source, preset, 50, 224, args.rounds)
        tree = cifar_tree(folder / "cifar", args.cifar)
        source = SourceSettings(kind="parquet", path=str(SHARED / "data" / "cifar10" / "train.parquet"))
        run("CIFAR-10, 32 px, preset small", tree, source, "small", 128, 32, args.rounds)


if __name__ == "__main__":
    main()
