"""Loaders run in a process of their own, to be measured or killed: `python -m tests.data.probe <what> <beton> ...`."""

import itertools
import json
import resource
import sys
import time
import zlib
from pathlib import Path

import torch

from metaug_ray.config import AugmentationSettings, ColorJitterSettings, RandAugmentSettings
from metaug_ray.data.loader import Batch, PretrainingLoader

AUGMENTED = AugmentationSettings(
    rotation=15, color_jitter=ColorJitterSettings(), grayscale=0.2, rand_augment=RandAugmentSettings(), mixup=0.8
)
SECOND = AugmentationSettings(crop_scale=(0.08, 0.5), blur=0.5, solarize=0.5, mixup=0.9)
CROPS = (AUGMENTED, SECOND)


def loader(beton: Path, batch_size: int, size: int, cpus: int = 2, augmented: bool = False) -> PretrainingLoader:
    settings = CROPS if augmented else AugmentationSettings()
    return PretrainingLoader(beton, batch_size, size, settings, seed=3, cpus=cpus, device=torch.device("cpu"))


def fingerprint(batch: Batch) -> list[int]:
    """Checksums of each crop's pixels and the rest of a batch."""
    parts = (*(crop.contiguous() for crop in batch.crops), batch.labels, batch.indices, batch.valid)
    return [zlib.crc32(part.numpy().tobytes()) for part in parts]


def stream(beton: Path, epoch: int, start_step: int, pause: float) -> None:
    """Prints each batch's fingerprint as soon as it is there."""
    for batch in loader(beton, 8, 32, augmented=True).epoch(epoch, start_step):
        print(json.dumps(fingerprint(batch)), flush=True)
        time.sleep(pause)


def epochs(beton: Path, count: int) -> None:
    """Prints for each epoch the most anonymous memory, in bytes, and the threads; every other one breaks off."""
    loaded = loader(beton, 8, 224)
    seen = []
    for epoch in range(count):
        batches = loaded.epoch(epoch)
        most = max(anonymous() for _ in itertools.islice(batches, 2 if epoch % 2 else None))
        batches.close()
        seen.append((most, len(list(Path("/proc/self/task").iterdir()))))
    print(json.dumps(seen))


def cpus(beton: Path, share: int) -> None:
    """Prints CPU seconds per second of decoding, and torch's threads before and after."""
    torch.set_num_threads(2)
    loaded = loader(beton, 25, 224, share)
    for _ in loaded.epoch(0):
        pass
    start, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    for epoch in range(1, 4):
        for _ in loaded.epoch(epoch):
            pass
    now = resource.getrusage(resource.RUSAGE_SELF)
    busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"cpus": busy / (time.monotonic() - start), "torch": torch.get_num_threads()}))


def anonymous() -> int:
    """Memory of this process that no file backs, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    what, beton, *rest = sys.argv[1:]
    match what:
        case "stream":
            stream(Path(beton), int(rest[0]), int(rest[1]), float(rest[2]))
        case "epochs":
            epochs(Path(beton), int(rest[0]))
        case "cpus":
            cpus(Path(beton), int(rest[0]))
