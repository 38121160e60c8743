"""What a second crop costs: `uv run python -m tests.benchmarks.crops` (half a minute on two cores).

The JPEGs of the ImageNet sample at 224 px, with every CPU of this process, in alternating rounds: one crop of each
image, two, and two from decoding each image twice. The last row makes BYOL's changes to both crops too, where training
would make them: on the device, here the CPU. CPU time, over all threads, says more than images/s where others share the
machine.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from metaug_ray.config import AugmentationSettings, ColorJitterSettings, EncodingSettings, SourceSettings
from metaug_ray.config.prepare import PrepareSettings
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.data.prepare import prepare
from tests.benchmarks.loading import CPUS, Epoch, imagenet_tree, rate

BATCH, SIZE = 50, 224
PLAIN = AugmentationSettings(crop_scale=(0.08, 1.0))
COLOURS = {"color_jitter": ColorJitterSettings(saturation=0.2), "grayscale": 0.2}
BYOL = (
    PLAIN.model_copy(update={**COLOURS, "blur": 1.0}),
    PLAIN.model_copy(update={**COLOURS, "blur": 0.1, "solarize": 0.2}),
)


def crops(beton: Path, augmentations: Sequence[AugmentationSettings]) -> Epoch:
    return PretrainingLoader(beton, BATCH, SIZE, augmentations, seed=0, cpus=CPUS, device=torch.device("cpu")).epoch


def decoded_twice(beton: Path) -> Epoch:
    epoch_of = crops(beton, [PLAIN])

    def pairs(epoch: int) -> Iterator[object]:
        """As many batches as one epoch has, in the time of two."""
        both = itertools.chain(epoch_of(2 * epoch), epoch_of(2 * epoch + 1))
        return itertools.islice(both, 1, None, 2)

    return pairs


def first_steps(epoch_of: Epoch, steps: int) -> Epoch:
    return lambda epoch: itertools.islice(epoch_of(epoch), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8, help="times that each image is there")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tree, beton = imagenet_tree(Path(name) / "tree", args.repeats), Path(name) / "x.beton"
        source = SourceSettings(kind="imagefolder", path=str(tree))
        prepare(PrepareSettings(source=source, encoding=EncodingSettings(preset="imagenet"), output=beton))
        rows = {
            "one crop": crops(beton, [PLAIN]),
            "two crops": crops(beton, [PLAIN, PLAIN]),
            "two crops, decoded twice": decoded_twice(beton),
            "two crops, BYOL's changes": first_steps(crops(beton, BYOL), 1),
        }
        rates: dict[str, list[float]] = {row: [] for row in rows}
        costs: dict[str, list[float]] = {row: [] for row in rows}
        for round_number in range(args.rounds + 1):
            for row, epoch_of in rows.items():
                busy, began = time.process_time(), time.perf_counter()
                measured = rate(epoch_of, round_number, 1, BATCH)
                images = measured * (time.perf_counter() - began)
                if round_number:  # the first compiles the decoding
                    rates[row].append(measured)
                    costs[row].append((time.process_time() - busy) / images)
                print(f"\rround {round_number} of {args.rounds}, {row:30}", end="", file=sys.stderr)
    print(f"\n\nImageNet's JPEGs, {SIZE} px ({CPUS} CPUs, {args.rounds} rounds)\n")
    print("| loader | images/s (least, greatest) | CPU ms an image | CPU time to one crop |\n|---|---|---|---|")
    cost = {row: 1e3 * statistics.median(measured) for row, measured in costs.items()}
    for row, measured in rates.items():
        spread = f"{statistics.median(measured):,.0f} ({min(measured):,.0f}, {max(measured):,.0f})"
        print(f"| {row} | {spread} | {cost[row]:.2f} | {cost[row] / cost['one crop']:.2f} x |")


if __name__ == "__main__":
    main()
