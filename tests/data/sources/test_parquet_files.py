from pathlib import Path

import pytest

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.listing import Listing
from metaug_ray.data.sources.parquet_files import find_shards, matching
from tests.log import Log


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(path: object, root: Path) -> list[str]:
    return [str(file.relative_to(root)) for file in find_shards(str(path), Listing())]


def test_globs_relative_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/1.parquet", "a/2.parquet", "a/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert matching(f"{tmp_path}/*/*.parquet") == [tmp_path / "a/2.parquet", tmp_path / "b/1.parquet"]
    monkeypatch.chdir(tmp_path)
    assert matching("**/*.parquet") == [Path("a/2.parquet"), Path("b/1.parquet")]


@pytest.mark.parametrize("folder", ["data[1]", "a*b", "what?", "~", "猫", "a b", "new\nline"])
def test_a_folder_may_have_any_name(tmp_path: Path, folder: str) -> None:
    files(tmp_path, f"{folder}/1.parquet", f"{folder}/2.PARQUET", "data1/3.parquet")
    assert found(tmp_path / folder, tmp_path) == [f"{folder}/1.parquet", f"{folder}/2.PARQUET"]
    assert found(tmp_path / folder / "*.parquet", tmp_path) == [f"{folder}/1.parquet"]
    assert found(tmp_path / folder / "1.parquet", tmp_path) == [f"{folder}/1.parquet"]


def test_what_is_hidden_or_no_parquet_file_is_passed_over(tmp_path: Path) -> None:
    root = files(tmp_path, "._a.parquet", "a.parquet", "README.md", "more/b.parquet", "x.beton", ".x.beton.lock")
    listing = Listing()
    assert find_shards(str(root), listing) == [root / "a.parquet"]
    assert {reason: of.names for reason, of in listing.passed_over.items()} == {
        "hidden": [str(root / "._a.parquet")],
        "not a Parquet file": [str(root / "README.md")],
        "in a folder below": [str(root / "more/b.parquet")],
    }
    assert found(root / "*.parquet", root) == ["a.parquet"]


def test_a_folder_that_spark_wrote(tmp_path: Path) -> None:
    root = files(tmp_path, "train.parquet/part-0.snappy.parquet", "train.parquet/_SUCCESS")
    for path in (root, root / "train.parquet", root / "*.parquet"):
        assert found(path, root) == ["train.parquet/part-0.snappy.parquet"]


def test_splits_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    root = files(tmp_path, "test-00000-of-00001.parquet", "train-00000-of-00001.parquet", "trainer.parquet")
    with pytest.raises(DataError, match=r"splits 'test', 'train'; choose one by a glob in quotes, such as '.*/test\*"):
        found(root, root)
    assert found(root / "test*.parquet", root) == ["test-00000-of-00001.parquet"]
    assert len(found(root / "*.parquet", root)) == 3


def test_a_folder_above_the_files(tmp_path: Path) -> None:
    root = files(tmp_path, "data/a.parquet")
    with pytest.raises(DataError, match=rf"holds no Parquet files; point --source\.path at {root}/data, which has"):
        found(root, root)
    assert found(root / "data", root) == ["data/a.parquet"]


def test_shards_that_were_not_copied(tmp_path: Path, log: Log) -> None:
    root = files(tmp_path, "a-00000-of-00003.parquet", "a-00002-of-00003.parquet", "b-00000-of-00001.parquet")
    found(root, root)
    assert log.messages == [f"{root}/a: 2 of its 3 Parquet files are here"]
