"""From a source to a verified beton with its manifest: nothing that is unfinished ever bears the beton's name."""

import datetime
import errno
import importlib.metadata
import itertools
import logging
import os
import platform
import shutil
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from metaug_ray.config.prepare import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.beton import BetonWriter, beton_sizes, open_beton, verify_beton
from metaug_ray.data.cpus import available_cpus
from metaug_ray.data.encoding import EncodedImage, Encoding, encode
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest, Skipped, manifest_path
from metaug_ray.data.pool import encode_all
from metaug_ray.data.progress import progress_options, readable_size
from metaug_ray.data.sources.kinds import open_source
from metaug_ray.data.sources.record import Source
from metaug_ray.data.writable import make_writable

_log = logging.getLogger(__name__)
_SAMPLED = 64
_TOOLS = ("metaug-ray", "ffcv", "opencv-python", "pillow", "numpy", "pyarrow", "torchvision")


def resolve_encoding(settings: EncodingSettings) -> Encoding:
    """The preset, with what the user set in its place."""
    return Encoding(
        settings.resolved_kind,
        settings.resolved_max_resolution,
        settings.jpeg_quality or 90,
        settings.jpeg_fraction or 0.5,
    )


def prepare(settings: PrepareSettings) -> Manifest:
    """Writes, verifies and names a beton and its manifest.

    The file is written as `.<name>.partial` beside the output and renamed only when every image's bytes were read back
    and found equal. The same source, settings and tool versions give the same bytes, whatever the number of workers.

    Raises:
        DataError: an output that exists or is being written, too little disk space, an unreadable image, or anything
            the source or the verification finds.
    """
    output = settings.output
    partial = output.with_name(f".{output.name}.partial")
    encoding = resolve_encoding(settings.encoding)
    try:
        make_writable(output.parent)
        with FileLock(output.with_name(f".{output.name}.lock"), timeout=0):
            _check_output(output, settings.overwrite)
            source = open_source(settings.source)
            _check_space(output.parent, source, encoding)
            try:
                manifest = _write(partial, source, encoding, settings)
                _publish(partial, output, manifest)
            finally:
                partial.unlink(missing_ok=True)
    except Timeout as error:
        raise DataError(f"{output}: another process is writing it; wait for it, or choose another --output") from error
    except BrokenProcessPool as error:
        raise DataError(
            f"{output}: a process that decodes images was killed or could not start (most often for want of memory); "
            "use fewer --workers"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{output}: the disk is full; free some space or choose another --output") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
            raise DataError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
        raise
    return manifest


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise DataError(f"{output}: is a folder; choose another --output")
    if output.exists() and not overwrite:
        raise DataError(f"{output}: exists already; pass --overwrite to replace it, or choose another --output")


def _check_space(folder: Path, source: Source, encoding: Encoding) -> None:
    """Projects the size of the beton from the first images, before anything is written."""
    first = [encode(position, record, encoding) for position, record in enumerate(itertools.islice(source, _SAMPLED))]
    sizes = [len(image.data) for image in first if isinstance(image, EncodedImage)]
    needed = int(np.mean(sizes) * len(source)) if sizes else 0
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: the beton will take about {readable_size(needed)} and {readable_size(free)} are free; "
            "free some space, choose another --output, or store smaller images (--encoding.max-resolution)"
        )


def _write(partial: Path, source: Source, encoding: Encoding, settings: PrepareSettings) -> Manifest:
    labels: list[int] = []
    crcs: list[int] = []
    skipped: list[Skipped] = []
    workers = settings.workers or available_cpus()
    started = time.monotonic()
    with BetonWriter(partial, len(source), encoding.max_resolution) as writer:
        images = encode_all(source, encoding, workers)
        for image in tqdm(images, "writing", len(source), **progress_options("image")):
            if isinstance(image, EncodedImage):
                writer.append(image)
                labels.append(image.label)
                crcs.append(image.crc)
            elif settings.skip_unreadable:
                skipped.append(Skipped(name=image.name, reason=image.reason))
            else:
                raise DataError(
                    f"{image.name}: cannot be read as an image ({image.reason}); mend or remove it, or pass "
                    "--skip-unreadable to leave such images out"
                )
        if not labels:
            raise DataError(
                f"none of the {len(source):,} images can be read, {skipped[0].name} among them; check the source"
            )
    seconds = time.monotonic() - started
    size = partial.stat().st_size
    with tqdm(desc="verifying", total=size, **progress_options("B")) as bar:
        sha256 = verify_beton(partial, np.array(labels), crcs, bar.update)
    heights, widths = beton_sizes(open_beton(partial))
    _log.info(
        f"{len(labels):,} images in {seconds:.1f} s ({len(labels) / seconds:,.0f} images/s, {workers} workers), "
        f"{len(skipped)} skipped, {readable_size(size)}; every image read back and compared"
    )
    return Manifest(
        source=_described(settings.source),
        samples=len(labels),
        classes=list(source.classes),
        class_counts=_class_counts(np.array(labels), len(source.classes)),
        encoding={
            "kind": encoding.kind,
            "max_resolution": encoding.max_resolution,
            **({} if encoding.kind == "raw" else {"jpeg_quality": encoding.jpeg_quality}),
            **({"jpeg_fraction": encoding.jpeg_fraction} if encoding.kind == "mixed" else {}),
        },
        height=(int(heights.min()), int(heights.max())),
        width=(int(widths.min()), int(widths.max())),
        bytes=size,
        sha256=sha256,
        skipped=skipped,
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        versions={"python": platform.python_version()} | {tool: importlib.metadata.version(tool) for tool in _TOOLS},
    )


def _publish(partial: Path, output: Path, manifest: Manifest) -> None:
    """Gives beton and manifest their names; readers refuse a beton without its manifest or with an older one."""
    text = partial.with_name(partial.name + ".json")
    try:
        with text.open("w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
        text.replace(manifest_path(output))
    finally:
        text.unlink(missing_ok=True)
    folder = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _described(source: SourceSettings) -> dict[str, str]:
    """What was read, for the manifest: the settings that this kind of source heeds."""
    described: dict[str, str] = {"kind": source.kind}
    if source.kind == "shapes":
        return described | {name: str(getattr(source, name)) for name in ("count", "size", "seed")}
    described["path"] = str(source.path)
    if source.resolved_split:
        described["split"] = source.resolved_split
    if source.unlabelled:
        described["unlabelled"] = "true"
    return described


def _class_counts(labels: NDArray[np.int64], classes: int) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=classes).tolist() if classes else []
