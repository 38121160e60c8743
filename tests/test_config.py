from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from metaug_ray.config import (
    AugmentationSettings,
    ColorJitterSettings,
    EncodingSettings,
    PrepareSettings,
    RandAugmentSettings,
    SourceSettings,
    explain,
    matching_files,
)


def refusal(model: type[Any], **fields: object) -> str:
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            AugmentationSettings,
            {"crop_scale": (0.5, 0.2)},
            "crop_scale: got 0.5, 0.2; expected 0.001 <= least <= greatest <= 1",
        ),
        (
            AugmentationSettings,
            {"crop_scale": (0, 1)},
            "crop_scale: got 0.0, 1.0; expected 0.001 <= least <= greatest <= 1",
        ),
        (AugmentationSettings, {"crop_scale": (0.2, 1.5)}, "crop_scale: got 0.2, 1.5"),
        (
            AugmentationSettings,
            {"crop_ratio": (2, 1)},
            "crop_ratio: got 2.0, 1.0; expected 0.1 <= least <= greatest <= 10",
        ),
        (AugmentationSettings, {"flip": 1.5}, "flip: Input should be less than or equal to 1 (got 1.5)"),
        (AugmentationSettings, {"rotation": 181}, "rotation: Input should be less than or equal to 180 (got 181)"),
        (AugmentationSettings, {"grayscale": -0.1}, "grayscale: Input should be greater than or equal to 0 (got -0.1)"),
        (AugmentationSettings, {"mixup": 0.4}, "mixup: Input should be greater than or equal to 0.5 (got 0.4)"),
        (AugmentationSettings, {"mixup": float("nan")}, "mixup: Input should be"),
        (AugmentationSettings, {"blur": 1}, "blur: Extra inputs are not permitted (got 1)"),
        (ColorJitterSettings, {"hue": 0.6}, "hue: Input should be less than or equal to 0.5 (got 0.6)"),
        (ColorJitterSettings, {"brightness": -1}, "brightness: Input should be greater than or equal to 0 (got -1)"),
        (RandAugmentSettings, {"magnitude": 31}, "magnitude: Input should be less than or equal to 30 (got 31)"),
        (RandAugmentSettings, {"operations": 0}, "operations: Input should be greater than or equal to 1 (got 0)"),
        (EncodingSettings, {}, "preset: Field required"),
        (EncodingSettings, {"preset": "small", "max_resolution": 4}, "max_resolution: Input should be greater than or"),
        (
            EncodingSettings,
            {"preset": "imagenet-fast", "jpeg_fraction": 1},
            "jpeg_fraction: Input should be less than 1 (got 1)",
        ),
        (EncodingSettings, {"preset": "small", "jpeg_quality": 50}, "jpeg_quality: raw pixels have none (got 50)"),
        (EncodingSettings, {"preset": "imagenet", "jpeg_fraction": 0.5}, "jpeg_fraction: only mixed has one, not jpeg"),
        (SourceSettings, {"kind": "parquet", "path": ""}, "path: String should have at least 1 character"),
        (SourceSettings, {"kind": "webdataset"}, "kind: Input should be 'imagefolder', 'parquet',"),
        (SourceSettings, {"kind": "cifar10"}, "path: the source 'cifar10' needs the path of its files"),
        (SourceSettings, {"kind": "parquet", "path": "/nowhere/*.parquet"}, "path: /nowhere/*.parquet does not exist"),
        (
            SourceSettings,
            {"kind": "cifar10", "path": ".", "split": "val"},
            "split: the source 'cifar10' has no split 'val'; choose from train, test",
        ),
        (
            SourceSettings,
            {"kind": "imagefolder", "path": ".", "split": "val"},
            "split: the source 'imagefolder' has no split 'val'; it has none",
        ),
        (
            SourceSettings,
            {"kind": "cifar10", "path": ".", "unlabelled": True},
            "unlabelled: only imagefolder and parquet can drop labels, not 'cifar10'",
        ),
    ],
)
def test_says_the_field_the_value_and_what_is_allowed(
    model: type[Any], fields: dict[str, object], message: str
) -> None:
    assert message in refusal(model, **fields)


def test_names_nested_fields_in_full() -> None:
    lines = refusal(
        PrepareSettings,
        source={"kind": "shapes", "path": "x"},
        encoding={"preset": "imagenet", "jpeg_quality": 0},
        output="x.beton",
    )
    assert "source.path: shapes are generated and read no path" in lines
    assert "encoding.jpeg_quality: Input should be greater than or equal to 1 (got 0)" in lines


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AugmentationSettings().flip = 0.1  # type: ignore[misc]


def test_the_split_defaults_to_the_first() -> None:
    assert SourceSettings(kind="stl10", path=".").resolved_split == "unlabeled"
    assert SourceSettings(kind="cifar10", path=".", split="test").resolved_split == "test"
    assert SourceSettings(kind="imagefolder", path=".").resolved_split is None


def test_globs_relative_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/1.parquet", "a/2.parquet", "a/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert matching_files(f"{tmp_path}/*/*.parquet") == [tmp_path / "a/2.parquet", tmp_path / "b/1.parquet"]
    monkeypatch.chdir(tmp_path)
    assert matching_files("**/*.parquet") == [Path("a/2.parquet"), Path("b/1.parquet")]
