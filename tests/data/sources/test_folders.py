from pathlib import Path

import pytest
from PIL import Image

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.folders import ImageFolder, UnlabelledFolder
from metaug_ray.data.sources.record import UNLABELLED
from tests.data.images import image_tree, picture
from tests.data.nobody import as_nobody, needs_root


def test_reads_classes_and_files_in_torchvisions_order(tmp_path: Path) -> None:
    from torchvision import datasets

    root = image_tree(tmp_path / "tree")
    (root / "dog" / "deeper").mkdir()
    (root / "dog" / "0.png").rename(root / "dog" / "deeper" / "9.png")
    (root / "dog" / "notes.txt").write_text("not an image")
    (root / "dog" / "._1.png").write_bytes(b"left behind by macOS")
    (root / ".git").mkdir()
    source = ImageFolder(root)
    theirs = [sample for sample in datasets.ImageFolder(str(root), allow_empty=True).samples if "._" not in sample[0]]
    assert source.classes == ("cat", "dog", "emu")
    assert len(source) == 18
    # A hidden folder is a class to torchvision.
    assert [(record.name, record.label + 1) for record in source] == theirs
    assert source.labels.tolist() == [record.label for record in source]


def test_unlabelled_takes_every_image_below(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree")
    Image.fromarray(picture(9)).save(root / "top.JPG")
    source = UnlabelledFolder(root)
    assert source.classes == ()
    assert len(source) == 19
    assert {record.label for record in source} == {UNLABELLED}


def test_a_cycle_of_links_ends(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree", per_class=2)
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)
    assert len(UnlabelledFolder(root)) == 6


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no class folders and no images"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="found no images"):
        UnlabelledFolder(tmp_path)
    (tmp_path / "train.zip").touch()
    with pytest.raises(DataError, match=r"no images \(passed over: 1 not an image, such as .*/train\.zip\); point"):
        ImageFolder(tmp_path)


def test_missing_folder_and_file_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Not a directory"):
        UnlabelledFolder(tmp_path / "file")


def test_one_class(tmp_path: Path) -> None:
    image_tree(tmp_path / "root", classes=("train",))
    with pytest.raises(DataError, match=r"found 1 class \('train'\), expected at least 2.*--source.unlabelled"):
        ImageFolder(tmp_path / "root")


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    (image_tree(tmp_path / "tree") / "fox").mkdir()
    with pytest.raises(DataError, match="fox: this class folder holds no images"):
        ImageFolder(tmp_path / "tree")


def test_images_beside_the_class_folders_are_not_dropped_silently(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree")
    Image.fromarray(picture(9)).save(root / "stray.png")
    with pytest.raises(DataError, match=r"1 images, such as stray\.png, lie outside any class folder"):
        ImageFolder(root)


def test_class_names_that_differ_only_in_unicode_spelling(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree", classes=("caf\u00e9", "cafe\u0301", "dog"))
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system spells names one way")
    with pytest.raises(DataError, match="are the same name"):
        ImageFolder(root)


@needs_root
@pytest.mark.parametrize("private", [".", "dog"])
def test_a_folder_without_permission_is_named(tmp_path: Path, private: str) -> None:
    root = image_tree(tmp_path / "tree")
    (root / private).chmod(0o700)
    message = as_nobody(tmp_path, lambda: ImageFolder(root))
    assert (
        message
        == f"DataError: {root / private}: cannot be read (Permission denied); check the path and its permissions"
    )


@pytest.mark.parametrize("splits", [("train", "val"), ("Training", "Test"), ("train", "val", "notes")])
def test_the_folder_above_the_splits(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        image_tree(tmp_path / split, per_class=1)
    with pytest.raises(
        DataError, match=rf"'{splits[0]}'.* are called as the splits of a data set.*--source.path at one"
    ):
        ImageFolder(tmp_path)
    assert len(ImageFolder(tmp_path / splits[0])) == 3
    assert len(UnlabelledFolder(tmp_path)) == 3 * len(splits)


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    image_tree(tmp_path / "root", classes=("bus", "test", "train"))
    assert ImageFolder(tmp_path / "root").classes == ("bus", "test", "train")


def test_one_folder_too_high(tmp_path: Path) -> None:
    image_tree(tmp_path / "pets" / "inner", per_class=1)
    with pytest.raises(
        DataError, match=rf"its 3 folders may be the classes: point --source.path at {tmp_path}/pets/inner"
    ):
        ImageFolder(tmp_path / "pets")
    assert len(ImageFolder(tmp_path / "pets" / "inner")) == 3


def test_a_listed_class_may_be_empty_or_have_no_folder(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree", per_class=2)
    (root / "fox").mkdir()
    source = ImageFolder(root, ("fox", "emu", "cat", "gnu", "dog"))
    assert source.classes == ("fox", "emu", "cat", "gnu", "dog")
    assert [record.label for record in source] == [1, 1, 2, 2, 4, 4]
    with pytest.raises(
        DataError, match=r"'cat', 'dog' are not among the 2 classes of --source\.classes \('emu', 'fox'\)"
    ):
        ImageFolder(root, ("emu", "fox"))


def test_listed_classes_without_any_image(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="its class folders hold no images"):
        ImageFolder(tmp_path, ("cat", "dog"))


def test_a_folder_of_betons_is_no_class(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree", per_class=1)
    (root / "betons" / "old").mkdir(parents=True)
    (root / "betons" / "old" / ".train.beton.lock").touch()
    (root / "dog" / "x.beton").touch()
    (root / "train.beton.json").touch()
    source = ImageFolder(root)
    assert source.classes == ("cat", "dog", "emu")
    assert (len(source), source.passed_over) == (3, {})


def test_what_macos_adds_to_archives_is_no_class(tmp_path: Path) -> None:
    root = image_tree(tmp_path / "tree", per_class=1)
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._0.png").touch()
    assert ImageFolder(root).classes == ("cat", "dog", "emu")
