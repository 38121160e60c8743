from pathlib import Path

import pytest
from PIL import Image

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.record import UNLABELLED
from metaug_ray.data.sources.tiny_imagenet import TinyImageNet
from tests.data.images import picture


def tiny_imagenet(root: Path) -> Path:
    wnids = ("n02", "n01")
    root.mkdir()
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(3):
            Image.fromarray(picture(number)).save(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
        for number in range(4):
            Image.fromarray(picture(number)).save(root / split / "images" / f"{split}_{number}.JPEG")
    lines = [f"val_{number}.JPEG\t{wnids[number % 2]}\t0\t0\t62\t62" for number in range(4)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return root


def test_tiny_imagenet_splits(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    train = TinyImageNet(root, "train")
    assert train.classes == ("n01", "n02")
    assert [record.label for record in train] == train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert all(("n01", "n02")[record.label] in record.name for record in train)
    assert [record.label for record in TinyImageNet(root, "val")] == [1, 0, 1, 0]
    test = TinyImageNet(root, "test")
    assert test.classes == ()
    assert [record.label for record in test] == [UNLABELLED] * 4


def test_tiny_imagenet_without_its_annotations(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\n")
    with pytest.raises(DataError, match=r"val_0\.JPEG has class 'n09', which is not in wnids\.txt"):
        TinyImageNet(root, "val")
    (root / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"wnids\.txt: cannot be read"):
        TinyImageNet(root, "train")


def test_blank_lines_and_the_marks_of_other_editors(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    for name in ("wnids.txt", "val/val_annotations.txt"):
        text = (root / name).read_text()
        (root / name).write_bytes(b"\xef\xbb\xbf\r\n" + text.replace("\n", "\r\n\r\n").encode() + b"\r\n  \r\n")
    assert [record.label for record in TinyImageNet(root, "val")] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("val_0.JPEG n01\n", r"val_annotations\.txt: the line 'val_0\.JPEG n01' has no tab"),
        ("val_0.JPEG\tn01\n", r"val_annotations\.txt: has no line for val_1\.JPEG"),
        ("caf\xe9", r"val_annotations\.txt: is not a UTF-8 text"),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path: Path, annotations: str, message: str) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    (root / "val" / "val_annotations.txt").write_text(annotations, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        TinyImageNet(root, "val")


def test_a_class_that_was_not_unpacked(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    for image in (root / "train" / "n01" / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"train/n01: holds no images; unpack the original archive again"):
        TinyImageNet(root, "train")
