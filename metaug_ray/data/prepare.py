"""From a source to a verified beton with its manifest: nothing that is unfinished ever bears the beton's name."""

import datetime
import importlib.metadata
import itertools
import logging
import platform
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metaug_ray.config.prepare import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.beton import BetonWriter, verify_beton
from metaug_ray.data.cpus import available_cpus
from metaug_ray.data.encoding import EncodedImage, Encoding, Unreadable, encode
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest, Skipped
from metaug_ray.data.mapped import open_beton
from metaug_ray.data.output import Output, check_first
from metaug_ray.data.pool import encode_all
from metaug_ray.data.progress import progress_options, readable_size
from metaug_ray.data.remarks import Remarks, passed_over, say_empty, say_passed_over
from metaug_ray.data.sources.kinds import open_source
from metaug_ray.data.sources.part import Part
from metaug_ray.data.sources.record import Source

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
    output = Output(settings.output)
    encoding = resolve_encoding(settings.encoding)
    try:
        with output.reserved(settings.overwrite):
            source = open_source(settings.source)
            passed = passed_over(source)
            say_passed_over(passed)
            check_first(settings.output.parent, _first_images(source, encoding), len(source))
            manifest = _write(output.partial, source, encoding, settings)
            manifest = manifest.model_copy(update={"passed_over": passed})
            output.publish(manifest)
    except BrokenProcessPool as error:
        raise DataError(
            f"{settings.output}: a process that decodes images was killed or could not start (most often for want of "
            "memory); use fewer --workers"
        ) from error
    return manifest


def _first_images(source: Source, encoding: Encoding) -> list[EncodedImage]:
    first = (encode(position, record, encoding) for position, record in enumerate(itertools.islice(source, _SAMPLED)))
    return [image for image in first if isinstance(image, EncodedImage)]


def _write(partial: Path, source: Source, encoding: Encoding, settings: PrepareSettings) -> Manifest:
    workers = settings.workers or available_cpus()
    started = time.monotonic()
    written = _Written(settings.skip_unreadable)
    with BetonWriter(partial, len(source)) as writer:
        images = encode_all(source, encoding, workers)
        for image in tqdm(images, "writing", len(source), **progress_options("image")):
            written.add(image, writer)
        if not written.labels:
            raise DataError(
                f"none of the {len(source):,} images can be read, {written.skipped[0].name} among them; check the "
                "source"
            )
    seconds = time.monotonic() - started
    size = partial.stat().st_size
    labels = np.array(written.labels)
    with tqdm(desc="verifying", total=size, **progress_options("B")) as bar:
        sha256 = verify_beton(partial, labels, written.crcs, bar.update)
    beton = open_beton(partial)
    _log.info(
        f"{len(labels):,} images in {seconds:.1f} s ({len(labels) / seconds:,.0f} images/s, {workers} workers), "
        f"{len(written.skipped)} skipped, {readable_size(size)}; every image read back and compared"
    )
    written.remarks.say()
    counts = _class_counts(labels, len(source.classes))
    say_empty(source.classes, counts)
    return Manifest(
        source=_described(settings.source) | (source.described if isinstance(source, Part) else {}),
        samples=len(labels),
        classes=list(source.classes),
        class_counts=counts,
        encoding={
            "kind": encoding.kind,
            "max_resolution": encoding.max_resolution,
            **({} if encoding.kind == "raw" else {"jpeg_quality": encoding.jpeg_quality}),
            **({"jpeg_fraction": encoding.jpeg_fraction} if encoding.kind == "mixed" else {}),
        },
        height=(int(beton.heights.min()), int(beton.heights.max())),
        width=(int(beton.widths.min()), int(beton.widths.max())),
        bytes=size,
        sha256=sha256,
        grey=written.remarks.grey,
        one_colour=written.remarks.one_colour,
        dark=written.remarks.dark,
        skipped=written.skipped,
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        versions={"python": platform.python_version()} | {tool: importlib.metadata.version(tool) for tool in _TOOLS},
    )


class _Written:
    """What is kept of the images that went into a beton, and of those that did not."""

    def __init__(self, skip_unreadable: bool) -> None:
        self._skip_unreadable = skip_unreadable
        self.labels: list[int] = []
        self.crcs: list[int] = []
        self.skipped: list[Skipped] = []
        self.remarks = Remarks()

    def add(self, image: EncodedImage | Unreadable, writer: BetonWriter) -> None:
        if isinstance(image, EncodedImage):
            writer.append(image)
            self.labels.append(image.label)
            self.crcs.append(image.crc)
            self.remarks.add(image)
        elif self._skip_unreadable:
            self.skipped.append(Skipped(name=image.name, reason=image.reason))
        else:
            raise DataError(
                f"{image.name}: cannot be read as an image ({image.reason}); mend or remove it, or pass "
                "--skip-unreadable to leave such images out"
            )


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
    if source.classes is not None:
        described["classes"] = str(source.classes)
    return described


def _class_counts(labels: NDArray[np.int64], classes: int) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=classes).tolist() if classes else []
