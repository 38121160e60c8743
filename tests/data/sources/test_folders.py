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
