"""What a user should hear of a beton's images: counts for the manifest, and a line each where something is odd."""

import logging
from collections.abc import Sequence

from metaug_ray.data.encoding import EncodedImage
from metaug_ray.data.manifest import PassedOver
from metaug_ray.data.sources.listing import Selective
from metaug_ray.data.sources.record import Source
from metaug_ray.names import readable

_log = logging.getLogger(__name__)


class Remarks:
    """Counts images that hold less than a picture should.

    Attributes:
        images: so far.
        grey, one_colour, dark: how many of them are so, see `Looks`.
    """

    def __init__(self) -> None:
        self.grey = self.one_colour = self.dark = 0
        self.images = 0
        self._first: dict[str, str] = {}

    def add(self, image: EncodedImage) -> None:
        """Counts one image."""
        self.images += 1
        for name, holds in image.looks._asdict().items():
            if holds:
                setattr(self, name, getattr(self, name) + 1)
                self._first.setdefault(name, readable(image.name))

    def say(self) -> None:
        """Logs what is odd."""
        if self.grey == self.images:
            _log.warning("all images are grey: the views of colour alone, ab and dbdr, hold nothing of them")
        elif self.grey:
            _log.info("%s grey", _are(self.grey, self.images))
        if self.one_colour:
            _log.warning(
                "%s of a single colour, %s the first of them; a drawing on a transparent ground becomes so, as "
                "transparency is dropped: lay it on a ground of another colour",
                _are(self.one_colour, self.images),
                self._first["one_colour"],
            )
        if self.dark:
            _log.warning(
                "%s nearly black (no level above 63 of 255), %s the first of them; data of 12 bits in 16 become so: "
                "stretch them to all 16 bits",
                _are(self.dark, self.images),
                self._first["dark"],
            )


def passed_over(source: Source) -> list[PassedOver]:
    """What the source found and left out, for the manifest."""
    if not isinstance(source, Selective):
        return []
    return [PassedOver(reason=reason, count=of.count, names=of.names) for reason, of in source.passed_over.items()]


def say_passed_over(passed: Sequence[PassedOver]) -> None:
    """Logs a line for each reason."""
    for of in passed:
        _log.info("%s passed over: %s, such as %s", f"{of.count:,}", of.reason, of.names[0])


def say_empty(classes: Sequence[str], counts: Sequence[int]) -> None:
    """Logs how many classes have no images."""
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        _log.warning("%d of %d classes have no images, %s the first of them", len(empty), len(classes), empty[0])


def _are(count: int, of: int) -> str:
    return f"{count:,} of {of:,} images {'is' if count == 1 else 'are'}"
