import os
from pathlib import Path

import pytest
from PIL import Image

from metaug_ray.data.sources.listing import Listing
from tests.data.images import picture, stored
from tests.data.nobody import as_nobody, needs_root


def image_bytes(kind: str) -> bytes:
    data = stored(Image.fromarray(picture(0)), kind).image
    assert isinstance(data, bytes)
    return data


def names(root: Path, listing: Listing) -> list[str]:
    return [str(file.relative_to(root)) for file in listing.images_below(root)]


def passed(root: Path, listing: Listing) -> dict[str, list[str]]:
    return {reason: [str(Path(n).relative_to(root)) for n in of.names] for reason, of in listing.passed_over.items()}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "AVIF", "JPEG2000", "TIFF"])
@pytest.mark.parametrize("suffix", ["", ".jfif", ".JPG.1", ".avif", ".what"])
def test_pictures_are_told_by_content(tmp_path: Path, kind: str, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(image_bytes(kind))
    listing = Listing()
    # Cameras' raw files are TIFF, with a thumbnail that would be taken for the picture.
    is_raw = kind == "TIFF" and suffix
    assert names(tmp_path, listing) == ([] if is_raw else [f"a{suffix}"])
    assert passed(tmp_path, listing) == ({"not an image": [f"a{suffix}"]} if is_raw else {})


def test_what_is_not_of_the_data_set_is_named(tmp_path: Path) -> None:
    for name in ("1.png", "._1.png", ".git/2.png", "@eaDir/thumb.jpg", "__MACOSX/._1.png", "deep/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image_bytes("PNG"))
    (tmp_path / "P1 notes").write_text("P1 is the first patient, BM the second")
    (tmp_path / "labels.csv").write_text("a,b")
    for name in ("x.beton", "x.beton.json", ".x.beton.lock", ".x.beton.partial"):
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    listing = Listing()
    assert names(tmp_path, listing) == ["1.png"]
    assert passed(tmp_path, listing) == {
        "hidden": ["._1.png", ".git", "@eaDir", "__MACOSX", "deep/Thumbs.db"],
        "not an image": ["P1 notes", "labels.csv", "pipe", "pipe.png"],
    }


def test_only_the_first_names_are_kept(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.txt").touch()
    listing = Listing()
    listing.images_below(tmp_path)
    of = listing.passed_over["not an image"]
    assert (of.count, len(of.names), of.names[0]) == (25, 10, str(tmp_path / "00.txt"))


def test_a_cut_off_picture_and_a_link_to_nowhere_are_pictures(tmp_path: Path) -> None:
    (tmp_path / "cut.part").write_bytes(image_bytes("JPEG")[:20])
    (tmp_path / "cut.avif").write_bytes(image_bytes("AVIF")[:20])
    (tmp_path / "cut.jfif").write_bytes(image_bytes("WEBP")[:20])
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    listing = Listing()
    assert names(tmp_path, listing) == ["cut.avif", "cut.jfif", "cut.part", "gone.png", "self.png"]
    assert passed(tmp_path, listing) == {"not an image": ["self"]}


@needs_root
def test_a_file_that_may_not_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "secret").chmod(0o600)

    def look() -> dict[str, list[str]]:
        listing = Listing()
        listing.images_below(tmp_path)
        return passed(tmp_path, listing)

    assert as_nobody(tmp_path, look) == str({"cannot be opened": ["secret"]})
