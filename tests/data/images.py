"""Small images and betons that the tests of the data path share."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.beton import sha256_of
from metaug_ray.data.manifest import Manifest, manifest_path, read_manifest
from metaug_ray.data.mapped import LABEL, METADATA_TYPE, TABLES_START
from metaug_ray.data.prepare import prepare
from metaug_ray.data.sources.record import UNLABELLED, Record


def picture(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Smooth random colours, as photographs are smooth, so that JPEG treats them kindly."""
    coarse = np.random.default_rng(seed).integers(256, size=(4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def stored(image: Image.Image, kind: str, **options: object) -> Record:
    """A record of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Record("picture", 0, file.getvalue())


def image_tree(root: Path, per_class: int = 6, classes: tuple[str, ...] = ("cat", "dog", "emu")) -> Path:
    """PNG files in class folders, each of its own size."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = picture(100 * label + number, 20 + number % 8, 40 - 3 * (number % 8))
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def settings(source: Path | SourceSettings, output: Path, preset: str = "small", **more: object) -> PrepareSettings:
    """Preparing a source, or an image folder, with one worker."""
    if isinstance(source, Path):
        source = SourceSettings(kind="imagefolder", path=str(source))
    return PrepareSettings.model_validate(
        {
            "source": source,
            "encoding": EncodingSettings.model_validate({"preset": preset}),
            "output": output,
            "workers": 1,
            **more,
        }
    )


def prepare_tree(folder: Path, **tree: int) -> tuple[Path, Manifest]:
    """A small raw beton under `folder`, made from PNG files."""
    output = folder / "images.beton"
    return output, prepare(settings(image_tree(folder / "tree", **tree), output))


def unlabelled_copy(beton: Path, path: Path) -> Path:
    """The same images, as if they had been prepared without labels."""
    path.write_bytes(beton.read_bytes())
    samples = read_manifest(beton).samples
    np.memmap(path, METADATA_TYPE, "r+", offset=TABLES_START, shape=samples)[LABEL] = UNLABELLED
    nothing = {"classes": [], "class_counts": [], "sha256": sha256_of(path)}
    manifest_path(path).write_text(read_manifest(beton).model_copy(update=nothing).model_dump_json())
    return path
