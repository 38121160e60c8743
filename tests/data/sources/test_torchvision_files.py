"""Files in the layouts of CIFAR and STL-10, made here: torchvision's MD5 lists are set to theirs."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from metaug_ray.data.errors import DataError
from metaug_ray.data.reading import read_rgb
from metaug_ray.data.sources.record import UNLABELLED
from metaug_ray.data.sources.torchvision_files import TorchvisionFiles
from tests.data.images import picture


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(monkeypatch: pytest.MonkeyPatch, root: Path, kind: type[CIFAR10], key: str, classes: list[str]) -> None:
    folder = root / kind.base_folder
    folder.mkdir()
    images = [picture(row, 32, 32) for row in range(4)]
    batch = {"data": np.stack([image.transpose(2, 0, 1).reshape(-1) for image in images]), key: [1, 0, 1, 0]}
    (folder / "batch").write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({kind.meta["key"]: classes}))
    listed = [["batch", md5(folder / "batch")]]
    monkeypatch.setattr(kind, "train_list", listed)
    monkeypatch.setattr(kind, "test_list", [])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "meta", "md5": md5(folder / "meta")})


@pytest.mark.parametrize(
    ("name", "kind", "key"), [("cifar10", CIFAR10, "labels"), ("cifar100", CIFAR100, "fine_labels")]
)
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[CIFAR10], key: str) -> None:
    cifar(monkeypatch, tmp_path, kind, key, ["cat", "dog"])
    inside = TorchvisionFiles(name, tmp_path / kind.base_folder, "train")
    assert [record.label for record in inside] == [1, 0, 1, 0]
    source = TorchvisionFiles(name, tmp_path, "train")
    assert source.classes == ("cat", "dog")
    assert [record.label for record in source] == [1, 0, 1, 0]
    assert all(np.array_equal(read_rgb(record), picture(row, 32, 32)) for row, record in enumerate(source))


def stl10(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    folder = root / STL10.base_folder
    folder.mkdir()
    # STL-10 stores images column by column.
    images = np.stack([picture(row, 96, 96).transpose(2, 1, 0) for row in range(3)])
    (folder / "train_X.bin").write_bytes(images.tobytes())
    (folder / "unlabeled_X.bin").write_bytes(images.tobytes())
    (folder / "train_y.bin").write_bytes(np.array([10, 1, 3], np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    lists = [[name, md5(folder / name)] for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")]
    monkeypatch.setattr(STL10, "train_list", lists)
    monkeypatch.setattr(STL10, "test_list", [])


def test_stl10_with_its_unlabelled_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stl10(monkeypatch, tmp_path)
    train = TorchvisionFiles("stl10", tmp_path, "train")
    assert train.classes == tuple("abcdefghij")
    assert [record.label for record in train] == [9, 0, 2]
    assert all(np.array_equal(read_rgb(record), picture(row, 96, 96)) for row, record in enumerate(train))
    unlabelled = TorchvisionFiles("stl10", tmp_path, "unlabeled")
    assert unlabelled.classes == ()
    assert [record.label for record in unlabelled] == [UNLABELLED] * 3
    both = TorchvisionFiles("stl10", tmp_path, "train+unlabeled")
    assert [record.label for record in both] == both.labels.tolist() == [9, 0, 2, UNLABELLED, UNLABELLED, UNLABELLED]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_missing_and_changed_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"holds no folder .* for the split 'train', or they were changed"):
        TorchvisionFiles(name, tmp_path, "train")


def test_a_changed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(monkeypatch, tmp_path, CIFAR10, "labels", ["cat", "dog"])
    (tmp_path / CIFAR10.base_folder / "batch").write_bytes(b"other bytes")
    with pytest.raises(DataError, match=r"holds no folder cifar-10-batches-py .* or they were changed"):
        TorchvisionFiles("cifar10", tmp_path, "train")
