"""Which files below a folder are pictures of the data set, and what was passed over."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, Protocol, runtime_checkable

from PIL import Image

from metaug_ray.data.errors import DataError

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Told by content where the suffix is another one. Cameras' raw files are TIFF too, so that needs its suffix, or none.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
# Cut short, these are pictures still: reading them says what is wrong.
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"\0\0\0\x0cjP  ")
_ENDS: Final = (b"WEBP", b"ftypavif", b"ftypavis")  # of the first twelve bytes
# What operating systems and disk stations leave in folders, thumbnails among it.
_SYSTEM: Final = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db")
_MOST_NAMES = 10

HIDDEN, NO_IMAGE, NO_PARQUET, NOT_OPENED, BELOW = (
    "hidden",
    "not an image",
    "not a Parquet file",
    "cannot be opened",
    "in a folder below",
)


@dataclass
class PassedOver:
    """Files and folders that lie in a data set and are not of it.

    Attributes:
        count: how many.
        names: paths of the first ten.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)


@runtime_checkable
class Selective(Protocol):
    """A source that takes some of the files it finds.

    Attributes:
        passed_over: the others, by the reason.
    """

    passed_over: dict[str, PassedOver]


class Listing:
    """Looks through folders and remembers what it passes over.

    What is hidden or the system's own is left out, and so is what this program writes (betons, manifests, locks), which
    is not counted. A file is a picture if its suffix or its content says so.
    """

    def __init__(self) -> None:
        self.passed_over: dict[str, PassedOver] = {}

    def entries(self, folder: Path) -> list[Path]:
        """What lies in a folder and is not hidden, in alphabetical order.

        Raises:
            DataError: the folder cannot be read.
        """
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            refuse(error)
        return [entry for entry in found if not self._is_left_out(entry.name, str(entry))]

    def images_below(self, root: Path) -> list[Path]:
        """Sorted pictures under `root`; links are followed, but no folder is entered twice.

        Raises:
            DataError: a folder cannot be read.
        """
        return sorted(self._walk(root, set()))

    def is_image(self, file: Path) -> bool:
        """Whether a file is a picture; if not, it is passed over."""
        return self._is_image(file, file.is_file())

    def pass_over(self, reason: str, name: str) -> None:
        """Count a file or folder that is left out."""
        passed = self.passed_over.setdefault(reason, PassedOver())
        passed.count += 1
        if len(passed.names) < _MOST_NAMES:
            passed.names.append(name)

    def told(self) -> str:
        """What was passed over, in brackets for a sentence; empty where nothing was."""
        parts = [f"{of.count:,} {reason}, such as {of.names[0]}" for reason, of in self.passed_over.items()]
        return f" (passed over: {'; '.join(parts)})" if parts else ""

    def _walk(self, folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
        try:
            status = folder.stat()
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            refuse(error)
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        for entry in found:
            if self._is_left_out(entry.name, entry.path):
                continue
            if _says(entry.is_dir):
                yield from self._walk(Path(entry.path), visited)
            elif self._is_image(file := Path(entry.path), _says(entry.is_file)):
                yield file

    def _is_image(self, file: Path, is_regular: bool) -> bool:
        # A link to nowhere is a picture that is missing; to open a pipe would be to wait for ever.
        if file.suffix.lower() in IMAGE_SUFFIXES and (is_regular or not file.exists()):
            return True
        reason = _why_no_image(file) if is_regular else NO_IMAGE
        if reason is not None:
            self.pass_over(reason, str(file))
        return reason is None

    def _is_left_out(self, name: str, path: str) -> bool:
        if is_own(name):
            return True
        if not (name.startswith(".") or name in _SYSTEM):
            return False
        self.pass_over(HIDDEN, path)
        return True


def is_own(name: str) -> bool:
    """Whether a file is called as what this program writes beside its betons."""
    hidden = name.startswith(".") and name.endswith(
        (".beton.lock", ".beton.partial", ".beton.partial.json", ".beton.old")
    )
    return hidden or name.endswith((".beton", ".beton.json"))


def holds_betons(folder: Path) -> bool:
    """Whether a folder is one that betons were written to, or are about to be."""
    return any(is_own(name) for _, _, files in os.walk(folder) for name in files)


def refuse(error: OSError) -> NoReturn:
    """Raise the `DataError` for a file or folder that cannot be read."""
    raise DataError(
        f"{error.filename}: cannot be read ({error.strerror}); check the path and its permissions"
    ) from error


def _says(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself
        return False


def _why_no_image(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            beginning = opened.read(12)
            if beginning.startswith(_SIGNATURES) or beginning.endswith(_ENDS):
                return None
            opened.seek(0)
            with Image.open(opened, formats=_FORMATS if file.suffix else (*_FORMATS, "TIFF")):
                return None
    # Decoders raise nearly everything on what they do not know.
    except Exception as error:
        return NOT_OPENED if isinstance(error, OSError) and error.errno else NO_IMAGE
