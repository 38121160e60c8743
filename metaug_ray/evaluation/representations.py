"""Representations of a data set: computed by workers all over the cluster, kept on the driver's disk."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from filelock import FileLock
from numpy.typing import NDArray

from metaug_ray.config.model import Precision
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.order import evaluation_shards
from metaug_ray.data.staging import staged
from metaug_ray.evaluation.classifiers import NOT_FINITE
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.readout import Readout
from metaug_ray.evaluation.stored import COMPLETE
from metaug_ray.method.precision import autocast
from metaug_ray.runtime.cluster import remote
from metaug_ray.runtime.device import autocast_dtype, prepare_task
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.words import first_line

_LABELS = "labels"
_PATIENCE = 60
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Representations:
    """What one encoder makes of one data set; arrays are memory-mapped files.

    Attributes:
        parts: float32 [N, E, H_part] by part: `representations`, stages of the encoders, `augmented`.
        labels: int64 [N], -1 where an image has none.
    """

    parts: dict[str, np.memmap[Any, np.dtype[np.float32]]]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Images as an encoder shall see them.

    Attributes:
        beton: path or URI.
        manifest: of the beton.
        size: side in pixels.
        crop: side of the central square as a share of the shorter side.
    """

    beton: str
    manifest: Manifest
    size: int
    crop: float = 1.0


def represent(
    readout: Readout,
    images: Images,
    placement: Placement,
    cache: Path,
    *,
    batch_size: int,
    precision: Precision = "float32",
    staging: Path | None = None,
) -> Representations:
    """Representations of all images, from the cache or computed on a Ray cluster that this process is part of.

    Every image is computed once, and the result is the same for any number of workers, up to rounding.

    Args:
        readout: what to compute.
        images: of one data set.
        placement: of the workers.
        cache: folder for results; they are found again by encoder, data and settings.
        batch_size: images at a time on a worker.
        precision: of the encoders' arithmetic.
        staging: folder on each node to which the beton is copied; None to read it where it lies.

    Raises:
        EvaluationError: a worker failed, results cannot be written, or those that were kept are damaged.
    """
    key = {
        "networks": readout.checksum,
        "data": images.manifest.sha256,
        "size": images.size,
        "crop": images.crop,
        "precision": f"torch.{precision}",
        "layers": readout.layers,
        "augmented": readout.generators is not None,
    }
    folder = cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not (folder / COMPLETE).exists():
                _log.info("representations of %s: starting the workers, which takes a minute or so", images.beton)
                loader = _Worker(readout, images, batch_size, precision, staging, placement)
                _compute(loader, images, placement, folder)
                (folder / COMPLETE).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
            else:
                _log.info("representations of %s were computed before; read from %s", images.beton, folder)
    except OSError as error:
        raise EvaluationError(
            f"cache: representations cannot be kept in {folder} ({error}); choose another folder with room"
        ) from error
    return _kept(folder, images.manifest.samples)


def _kept(folder: Path, samples: int) -> Representations:
    try:
        # Numpy's own files hold pickled objects too, where they are asked for.
        parts = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
        labels = np.asarray(parts.pop(_LABELS))
        if any(len(part) != samples for part in (labels, *parts.values())):
            raise ValueError(f"they are not of {samples:,} images")
        if any(part.dtype != np.float32 or part.ndim != 3 or not part.flags.c_contiguous for part in parts.values()):
            raise ValueError("they are not float32, row by row")
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"cache: what is kept in {folder} is no representations ({first_line(error)}); remove that folder, and "
            "they are computed anew"
        ) from error
    return Representations(parts, labels)


@dataclass(frozen=True)
class _Worker:
    """What each worker does."""

    readout: Readout
    images: Images
    batch_size: int
    precision: Precision
    staging: Path | None
    placement: Placement

    def run(self, rank: int) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]]:
        """Data set indices [n] and parts [n, V, H] of this rank's images, a batch at a time."""
        device = prepare_task(self.placement)
        workers = self.placement.workers
        beton = staged(self.images.beton, self.staging, partial(evaluation_shards, rank=rank, world_size=workers))
        loader = EvaluationLoader(
            beton,
            self.batch_size,
            self.images.size,
            cpus=self.placement.cpus,
            device=device,
            crop=self.images.crop,
            rank=rank,
            world_size=workers,
        )
        readout = self.readout.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for batch in loader:
            with torch.inference_mode(), autocast(device, autocast_dtype(self.precision)):
                parts = readout(batch.images)
            valid = batch.valid.cpu()
            if not valid.any():
                continue
            yield (
                batch.indices[valid].numpy(),
                {name: values[batch.valid].cpu().numpy() for name, values in parts.items()}
                | {_LABELS: batch.labels[batch.valid].cpu().numpy()},
            )


def _compute(worker: _Worker, images: Images, placement: Placement, folder: Path) -> None:
    for left in folder.glob("*.npy"):
        left.unlink()
    count = images.manifest.samples
    arrays: dict[str, np.memmap[Any, Any]] = {}
    done, said = 0, 0
    for indices, parts in _results(worker, placement):
        if not arrays:
            # The files take no room before they are written, and a full disk would kill this process then.
            needed = sum(values.nbytes * count // len(values) for values in parts.values())
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise EvaluationError(
                    f"cache: representations of {count:,} images take {needed / 2**30:.1f} GiB, and {folder} has "
                    f"{free / 2**30:.1f} GiB free; choose another folder"
                )
            for name, values in parts.items():
                shape = (count, *values.shape[1:])
                arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", values.dtype, shape)
        for name, values in parts.items():
            if not np.isfinite(values).all():
                raise EvaluationError(NOT_FINITE)
            arrays[name][indices] = values
        done += len(indices)
        if done * 10 // count > said:
            said = done * 10 // count
            _log.info(f"representations of {images.beton}: {done:,} of {count:,} images")
    for array in arrays.values():
        array.flush()
    if done != count:
        raise EvaluationError(f"{images.beton}: {done:,} of {count:,} images were computed; its manifest is wrong")


def _results(worker: _Worker, placement: Placement) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
    """What all workers give, as it comes."""
    shared = ray.put(worker)

    def run(worker: _Worker, rank: int) -> Iterator[Any]:
        yield from worker.run(rank)

    task = remote(
        run,
        placement,
        num_returns="streaming",
        # The driver writes as fast as workers compute; what waits for it must not fill the memory.
        _generator_backpressure_num_objects=8,
    )
    streams = [task.remote(shared, rank) for rank in range(placement.workers)]
    waited = 0
    try:
        while streams:
            ready, _ = ray.wait(streams, num_returns=1, fetch_local=False, timeout=_PATIENCE)
            waited = 0 if ready else waited + _PATIENCE
            if waited:
                # Ray starts workers that die at their start again and again, and says nothing.
                _log.warning(
                    "nothing has come from the workers for %d s; `ray status` and Ray's logs tell what they do", waited
                )
            for stream in ready:
                try:
                    yield ray.get(next(stream))
                except StopIteration:
                    streams.remove(stream)
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"a worker failed ({first_line(getattr(error, 'cause', None) or error)})") from error
    finally:
        for stream in streams:
            ray.cancel(stream, force=True)
