"""Betons, manifests, sources and kept representations that somebody else wrote."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from metaug_ray.config import AugmentationSettings, EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.beton import verify_beton
from metaug_ray.data.errors import DataError
from metaug_ray.data.ffcv_api import FieldDescType, HeaderType
from metaug_ray.data.loader import EvaluationLoader, PretrainingLoader
from metaug_ray.data.manifest import manifest_path, read_manifest
from metaug_ray.data.mapped import TABLES_START, open_beton
from metaug_ray.data.prepare import prepare
from metaug_ray.data.sources.torchvision_files import TorchvisionFiles
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.representations import _kept
from tests.data.images import picture
from tests.security.poison import Poison, refused


@pytest.fixture
def beton(shapes_beton: Path, tmp_path: Path) -> Path:
    """A copy of one, with its manifest."""
    copy = tmp_path / "copy.beton"
    shutil.copy(shapes_beton, copy)
    shutil.copy(manifest_path(shapes_beton), manifest_path(copy))
    return copy


def test_a_beton_that_is_a_pickle(beton: Path, tmp_path: Path) -> None:
    poison = Poison(tmp_path / "mark").pickled()
    beton.write_bytes(poison)
    with refused(tmp_path / "mark", DataError, "copy.beton: has ", "its manifest says"):
        read_manifest(beton)
    with refused(tmp_path / "mark", DataError, "copy.beton: is not a beton of images and labels"):
        open_beton(beton)


def test_a_manifest_that_is_a_pickle(beton: Path, tmp_path: Path) -> None:
    manifest_path(beton).write_bytes(Poison(tmp_path / "mark").pickled())
    with refused(tmp_path / "mark", DataError, "copy.beton.json: cannot be read"):
        read_manifest(beton)
    manifest_path(beton).write_bytes(pickle.dumps("x", 0))
    with refused(tmp_path / "mark", DataError, "copy.beton.json: is not a beton's manifest"):
        read_manifest(beton)


def far(table: np.ndarray) -> None:
    table["ptr"][3], table["size"][3] = 2**64 - 16, 32  # together they are 16


def beyond(table: np.ndarray) -> None:
    table["size"][-1] = 1 << 40


def elsewhere(table: np.ndarray) -> None:
    table["ptr"][3] = table["ptr"][4]


def refuse_all_ways(beton: Path, tmp_path: Path, sample: int) -> None:
    """Nothing that reads the image decodes it; others can be read."""
    words = (f"copy.beton: its tables are broken at image {sample}, which has no pixels or no place in the file",)
    opened = open_beton(beton)
    assert len(opened.stored(np.setdiff1d(np.arange(len(opened)), [sample])).addresses) == len(opened) - 1
    with refused(tmp_path / "mark", DataError, *words):
        opened.stored(np.array([0, sample, 1]))
    with refused(tmp_path / "mark", DataError, *words):
        verify_beton(beton, opened.labels, [0] * len(opened))
    plain, cpu = AugmentationSettings(), torch.device("cpu")
    with refused(tmp_path / "mark", DataError, *words):
        list(PretrainingLoader(beton, 16, 16, plain, seed=0, cpus=1, device=cpu).epoch(0))
    with refused(tmp_path / "mark", DataError, *words):
        list(EvaluationLoader(beton, 16, 16, cpus=1, device=cpu))


@pytest.mark.parametrize(("change", "sample"), [(far, 3), (beyond, 95), (elsewhere, 3)])
def test_places_out_of_the_beton(
    beton: Path, tmp_path: Path, change: Callable[[np.ndarray], None], sample: int
) -> None:
    reader = open_beton(beton)
    table = reader.alloc_table.copy()
    change(table)
    content = bytearray(beton.read_bytes())
    start = int(reader.header["alloc_table_ptr"])
    content[start : start + table.nbytes] = table.tobytes()
    beton.write_bytes(content)
    refuse_all_ways(beton, tmp_path, sample)


@pytest.mark.parametrize(("field", "value"), [("num_samples", 2**63), ("num_samples", 95), ("alloc_table_ptr", 2**63)])
def test_tables_out_of_the_beton(beton: Path, tmp_path: Path, field: str, value: int) -> None:
    header = open_beton(beton).header.copy()
    header[field] = value
    content = bytearray(beton.read_bytes())
    content[: header.nbytes] = header.tobytes()
    beton.write_bytes(content)
    with refused(tmp_path / "mark", DataError, "copy.beton: is not a beton of images and labels"):
        open_beton(beton)


@pytest.mark.parametrize(("field", "value"), [("data_ptr", 2**63), ("height", 60_000), ("width", 0), ("mode", 7)])
def test_images_that_are_no_images_of_the_beton(beton: Path, tmp_path: Path, field: str, value: int) -> None:
    reader = open_beton(beton)
    metadata = reader.metadata.copy()
    metadata["f0"][field][5] = value
    content = bytearray(beton.read_bytes())
    content[TABLES_START : TABLES_START + metadata.nbytes] = metadata.tobytes()
    beton.write_bytes(content)
    refuse_all_ways(beton, tmp_path, 5)


def test_fields_of_another_kind(beton: Path, tmp_path: Path) -> None:
    """FFCV has kinds whose values the file itself describes."""
    content = bytearray(beton.read_bytes())
    field = np.frombuffer(content, FieldDescType, 2, HeaderType.itemsize).copy()
    field["type_id"][0] = field["type_id"][1]
    content[HeaderType.itemsize : HeaderType.itemsize + field.nbytes] = field.tobytes()
    beton.write_bytes(content)
    with refused(tmp_path / "mark", DataError, "copy.beton: is not a"):
        open_beton(beton)


def test_cifars_pickles_are_those_of_its_authors(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name in (*(name for name, _ in CIFAR10.train_list), CIFAR10.meta["filename"]):
        (folder / name).write_bytes(Poison(tmp_path / "mark").pickled())
    with refused(tmp_path / "mark", DataError, "or they were changed; unpack the original archive there"):
        TorchvisionFiles("cifar10", tmp_path, "train")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_table_that_names_images_out_of_its_folder(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "table"
    (folder / "a").mkdir(parents=True)
    inside = [f"{row}.png" for row in range(8)]
    for name in (*inside, "../secret.png"):
        Image.fromarray(picture(len(name), 16, 16)).save(folder / name)
    pq.write_table(pa.table({"image": [*inside, path], "label": [0, 1] * 4 + [0]}), folder / "a.parquet")
    settings = PrepareSettings(
        source=SourceSettings(kind="parquet", path=str(folder)),
        encoding=EncodingSettings(preset="small"),
        output=tmp_path / "out.beton",
        workers=1,
    )
    with refused(tmp_path / "mark", DataError, f"row 8 ({path})", "leads out of", "beside the Parquet file"):
        prepare(settings)
    assert not (tmp_path / "out.beton").exists()


def test_kept_representations(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    np.save(folder / "labels.npy", np.arange(5))
    np.save(folder / "representations.npy", np.ones((5, 2, 3), np.float32))
    kept = _kept(folder, 5)
    assert (kept.labels.tolist(), kept.parts["representations"].shape) == ([0, 1, 2, 3, 4], (5, 2, 3))
    words = (f"what is kept in {folder} is no representations", "remove that folder")
    with refused(tmp_path / "mark", EvaluationError, *words, "of 6 images"):
        _kept(folder, 6)
    # Their bytes are read as float32, row by row.
    for other in (np.ones((5, 2, 3)), np.ones((5, 6), np.float32), np.asfortranarray(np.ones((5, 2, 3), np.float32))):
        np.save(folder / "representations.npy", other)
        with refused(tmp_path / "mark", EvaluationError, *words, "not float32, row by row"):
            _kept(folder, 5)
    for poison in (b"", Poison(tmp_path / "mark").pickled()):
        (folder / "representations.npy").write_bytes(poison)
        with refused(tmp_path / "mark", EvaluationError, *words):
            _kept(folder, 5)
    np.save(folder / "representations.npy", np.array([Poison(tmp_path / "mark")] * 5), allow_pickle=True)
    with refused(tmp_path / "mark", EvaluationError, *words):
        _kept(folder, 5)
    (folder / "labels.npy").unlink()
    with refused(tmp_path / "mark", EvaluationError, *words):
        _kept(folder, 5)
