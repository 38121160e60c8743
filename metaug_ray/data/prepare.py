"""From a source to a verified beton with its manifest: nothing that is unfinished ever bears the beton's name."""

import itertools
import logging
import resource
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeGuard

from tqdm import tqdm

from metaug_ray.config.prepare import EncodingSettings, PrepareSettings
from metaug_ray.data.cpus import available_cpus
from metaug_ray.data.dealt import DealtShard, Making, united
from metaug_ray.data.encoding import EncodedImage, Encoding, Unreadable, encode
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest, Skipped
from metaug_ray.data.output import Output, check_first
from metaug_ray.data.pool import encode_all
from metaug_ray.data.progress import progress_options, readable_size
from metaug_ray.data.remarks import Remarks, passed_over, say_empty, say_passed_over
from metaug_ray.data.sources.kinds import open_source
from metaug_ray.data.sources.record import Source

_log = logging.getLogger(__name__)
_SAMPLED = 64
_OTHER_FILES = 256


def resolve_encoding(settings: EncodingSettings) -> Encoding:
    """The preset, with what the user set in its place."""
    return Encoding(
        settings.resolved_kind,
        settings.resolved_max_resolution,
        settings.jpeg_quality or 90,
        settings.jpeg_fraction or 0.5,
    )


def prepare(settings: PrepareSettings) -> Manifest:
    """Writes, verifies and names a beton and its manifest, or a folder of betons and theirs.

    Images are dealt to shards one after another, so that each holds as many, and alike. What is written is called
    `.<name>.partial` beside the output, and renamed only when every image's bytes were read back and found equal. The
    same source, settings and tool versions give the same bytes, whatever the number of workers.

    Raises:
        DataError: an output that exists or is being written, too little disk space, an unreadable image, or anything
            the source or the verification finds.
    """
    output = Output(settings.output, settings.shards)
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
    places = [partial / f"{number:05}.beton" for number in range(settings.shards)] if settings.shards > 1 else [partial]
    if len(places) > len(source):
        raise DataError(f"shards: {len(places):,} for {len(source):,} images, of which each needs one; give fewer")
    with ExitStack() as stack, _many_files(2 * len(places)):
        shards = [DealtShard(stack, path, -(-len(source) // len(places))) for path in places]
        images = encode_all(source, encoding, workers)
        for image in tqdm(images, "writing", len(source), **progress_options("image")):
            if written.keeps(image):
                shards[written.remarks.images % len(shards)].add(image)
                written.remarks.add(image)
        if not written.remarks.images:
            raise DataError(
                f"none of the {len(source):,} images can be read, {written.skipped[0].name} among them; check the "
                "source"
            )
        if written.remarks.images < len(shards):
            raise DataError(
                f"shards: {len(shards)} for the {written.remarks.images} images that can be read; give fewer"
            )
    seconds = time.monotonic() - started
    size = sum(path.stat().st_size for path in places)
    made = Making(settings.source, source, encoding)
    with tqdm(desc="verifying", total=size, **progress_options("B")) as bar:
        manifests = [made.manifest_of(shard, bar.update) for shard in shards]
    samples, skipped = written.remarks.images, written.skipped
    _log.info(
        f"{samples:,} images in {seconds:.1f} s ({samples / seconds:,.0f} images/s, {workers} workers), "
        f"{len(skipped)} skipped, {readable_size(size)}; every image read back and compared"
    )
    written.remarks.say()
    manifest = manifests[0] if len(manifests) == 1 else united(shards, manifests)
    say_empty(source.classes, manifest.class_counts)
    looks = written.remarks
    found = {"grey": looks.grey, "one_colour": looks.one_colour, "dark": looks.dark, "skipped": skipped}
    return manifest.model_copy(update=found)


@contextmanager
def _many_files(count: int) -> Iterator[None]:
    """Let this process have so many more files open, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise DataError(f"shards: they take {wanted:,} open files, and the system allows {hard:,}; give fewer")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Written:
    """What is kept of the images that went into betons, and of those that did not."""

    def __init__(self, skip_unreadable: bool) -> None:
        self._skip_unreadable = skip_unreadable
        self.skipped: list[Skipped] = []
        self.remarks = Remarks()

    def keeps(self, image: EncodedImage | Unreadable) -> TypeGuard[EncodedImage]:
        """Whether it can be written; if not, it is skipped, or an error."""
        if isinstance(image, EncodedImage):
            return True
        if not self._skip_unreadable:
            raise DataError(
                f"{image.name}: cannot be read as an image ({image.reason}); mend or remove it, or pass "
                "--skip-unreadable to leave such images out"
            )
        self.skipped.append(Skipped(name=image.name, reason=image.reason))
        return False
