import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from metaug_ray.config import AugmentationSettings, EncodingSettings, SourceSettings
from metaug_ray.data.beton import BetonWriter
from metaug_ray.data.crops import random_resized_crops
from metaug_ray.data.encoding import EncodedImage, Encoding, encode
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import Batch, EvaluationLoader, PretrainingLoader
from metaug_ray.data.manifest import Manifest, manifest_path, read_manifest
from metaug_ray.data.prepare import open_source, prepare
from metaug_ray.data.randomness import Draws
from metaug_ray.data.sources.record import Record
from tests.data.images import image_tree, picture, settings
from tests.data.probe import AUGMENTED, CROPS, SECOND, fingerprint

CPU = torch.device("cpu")
PLAIN = AugmentationSettings()


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 images of several sizes, half of them JPEG."""
    folder = tmp_path_factory.mktemp("loader")
    encoding = EncodingSettings(preset="small", kind="mixed", jpeg_fraction=0.5)
    prepare(settings(image_tree(folder / "tree", per_class=25), folder / "x.beton", encoding=encoding))
    return folder / "x.beton"


def pretraining(
    beton: Path,
    batch_size: int,
    augmentation: AugmentationSettings | Sequence[AugmentationSettings] = PLAIN,
    **more: Any,
) -> PretrainingLoader:
    options = {"seed": 3, "cpus": 2, "device": CPU} | more
    return PretrainingLoader(beton, batch_size, 32, augmentation, **options)


def by_index(batches: list[Batch], crop: int = 0) -> dict[int, torch.Tensor]:
    pairs = [(int(n), image) for batch in batches for n, image in zip(batch.indices, batch.crops[crop], strict=True)]
    assert len(dict(pairs)) == len(pairs), "an image comes once an epoch"
    return dict(pairs)


def test_a_batch_is_what_it_says(beton: Path) -> None:
    loader = pretraining(beton, 8)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps_per_epoch == 9
    labels = np.repeat([0, 1, 2], 25)
    for batch in batches:
        assert len(batch.crops) == 1
        assert batch.images is batch.crops[0]
        assert batch.images.shape == (8, 3, 32, 32)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.tolist() == labels[batch.indices].tolist()
        assert batch.indices.dtype == batch.labels.dtype == torch.int64
        assert batch.valid.all()


def cropped(pixels: NDArray[np.uint8], box: NDArray[np.int64], flip: bool, size: int) -> NDArray[np.uint8]:
    top, left, height, width = box
    part = cv2.resize(pixels[top : top + height, left : left + width], (size, size), interpolation=cv2.INTER_AREA)
    return part[:, ::-1] if flip else part


def test_pixels_are_the_crops_that_were_drawn(tmp_path: Path) -> None:
    tree = image_tree(tmp_path / "tree", per_class=10)
    prepare(settings(tree, tmp_path / "x.beton"))
    source = open_source(SourceSettings(kind="imagefolder", path=str(tree)))
    pixels = [np.asarray(Image.open(record.name)) for record in source]
    heights, widths = (np.array([image.shape[axis] for image in pixels]) for axis in (0, 1))
    small = AugmentationSettings(crop_scale=(0.1, 0.3), crop_ratio=(1, 2))
    batches = list(pretraining(tmp_path / "x.beton", 10, (PLAIN, small)).epoch(4))
    for crop, (scale, ratio) in enumerate((((0.2, 1.0), (3 / 4, 4 / 3)), ((0.1, 0.3), (1.0, 2.0)))):
        draws = Draws(3, 4, np.arange(30), crop)
        boxes = random_resized_crops(draws, heights, widths, scale, ratio)
        flips = draws.happens("flip", 0.5)
        assert 5 < flips.sum() < 25
        images = by_index(batches, crop)
        for n in range(30):
            expected = cropped(pixels[n], boxes[n], bool(flips[n]), 32)
            # FFCV links another OpenCV than Python's, whose rounding may differ by a level.
            assert np.abs(images[n].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_each_crop_is_augmented_by_its_own_draws_and_settings(beton: Path) -> None:
    both = list(pretraining(beton, 8, CROPS).epoch(2))
    for batch in both:
        for crop in batch.crops:
            assert crop.shape == (8, 3, 32, 32)
            assert crop.dtype == torch.uint8
            assert crop.is_contiguous(memory_format=torch.channels_last)
    # The first crop is what it is alone, and the second what it is beside another first one.
    alone = list(pretraining(beton, 8, AUGMENTED).epoch(2))
    beside = list(pretraining(beton, 8, (SECOND, SECOND)).epoch(2))
    for batch, single, equal in zip(both, alone, beside, strict=True):
        assert torch.equal(batch.indices, single.indices)
        assert torch.equal(batch.crops[0], single.images)
        assert torch.equal(batch.crops[1], equal.crops[1])
    first, second = by_index(beside), by_index(beside, 1)
    assert not any(torch.equal(first[n], second[n]) for n in first)


def test_mixup_blends_a_crop_with_the_neighbours_same_crop(beton: Path) -> None:
    mixed = AugmentationSettings(mixup=0.6)
    plain_loader, mixed_loader = pretraining(beton, 8, (PLAIN, PLAIN)), pretraining(beton, 8, (mixed, mixed))
    for before, after in zip(plain_loader.epoch(0), mixed_loader.epoch(0), strict=True):
        for crop in (0, 1):
            share = Draws(3, 0, before.indices.numpy(), crop).uniform("mixup", 0.6, 1)
            own, others = (before.crops[crop][order].double() for order in (range(8), [n ^ 1 for n in range(8)]))
            kept = torch.from_numpy(share).view(8, 1, 1, 1)
            assert (kept * own + (1 - kept) * others - after.crops[crop].double()).abs().max() <= 0.51


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_together_see_what_one_sees(beton: Path, ranks: int) -> None:
    for epoch in (0, 1):
        whole = list(pretraining(beton, 16, CROPS).epoch(epoch))
        loaders = [pretraining(beton, 16 // ranks, CROPS, rank=rank, world_size=ranks, cpus=1) for rank in range(ranks)]
        # At the same time, as workers of one node are.
        steps = list(zip(*(loader.epoch(epoch) for loader in loaders), strict=True))
        assert len(steps) == len(whole)
        for batch, parts in zip(whole, steps, strict=True):
            for crop, images in enumerate(batch.crops):
                assert torch.equal(torch.cat([part.crops[crop] for part in parts]), images)
            assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
            assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)


@pytest.mark.parametrize("order", ["permutation", "sort"])
def test_each_rank_knows_the_images_of_all(beton: Path, order: str) -> None:
    alone = [list(pretraining(beton, 4, rank=rank, world_size=2, order=order).epoch(1, 3)) for rank in range(2)]
    for rank in range(2):
        told = list(pretraining(beton, 4, rank=rank, world_size=2, order=order, all_ranks=True).epoch(1, 3))
        for step, batch in enumerate(told):
            assert torch.equal(batch.images, alone[rank][step].images)
            assert torch.equal(batch.indices, alone[rank][step].indices)
            assert batch.global_indices is not None
            assert torch.equal(batch.global_indices, torch.cat([each[step].indices for each in alone]))
        assert len(told) == len(alone[rank]) > 1
    assert alone[0][0].global_indices is None


def test_the_thread_that_decodes_gets_the_gpu_that_is_current_here(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number: a thread begins with the first GPU as its current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for device, expected in (("cuda", 3), ("cuda:1", 1)):
        loader = EvaluationLoader(beton, 4, 32, cpus=1, device=torch.device(device))
        assert loader._reader._device == torch.device("cuda", expected)


def test_pixels_do_not_depend_on_the_batch_size_or_the_threads(beton: Path) -> None:
    colours = [each.model_copy(update={"mixup": 1.0}) for each in CROPS]
    in_order = list(pretraining(beton, 25, colours, cpus=1).epoch(2))
    in_parallel = list(pretraining(beton, 15, colours, cpus=2).epoch(2))
    for crop in (0, 1):
        one, two = by_index(in_order, crop), by_index(in_parallel, crop)
        assert len(one) == len(two) == 75
        assert all(torch.equal(one[n], two[n]) for n in range(75))


def test_epochs_and_seeds_differ(beton: Path) -> None:
    loader = pretraining(beton, 25)
    first, second = by_index(list(loader.epoch(0))), by_index(list(loader.epoch(1)))
    other = by_index(list(pretraining(beton, 25, seed=4).epoch(0)))
    assert sum(torch.equal(first[n], second[n]) for n in range(75)) < 5
    assert sum(torch.equal(first[n], other[n]) for n in range(75)) < 5
    again = by_index(list(loader.epoch(0)))
    assert all(torch.equal(first[n], again[n]) for n in range(75))


@pytest.mark.parametrize("start", [0, 1, 5, 8, 9])
def test_resuming_at_a_step_gives_the_rest_of_the_epoch(beton: Path, start: int) -> None:
    whole = [fingerprint(batch) for batch in pretraining(beton, 8, CROPS).epoch(1)]
    rest = [fingerprint(batch) for batch in pretraining(beton, 8, CROPS).epoch(1, start)]
    assert rest == whole[start:]


def test_a_step_outside_the_epoch_is_refused_at_once(beton: Path) -> None:
    loader = pretraining(beton, 8)
    with pytest.raises(ValueError, match="start_step is 10, expected 0 to the epoch's 9 steps"):
        loader.epoch(0, 10)
    with pytest.raises(ValueError, match="start_step is -1, expected at least 0"):
        loader.epoch(0, -1)
    with pytest.raises(TypeError, match=r"epoch is 1\.5, expected an integer"):
        loader.epoch(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"batch_size": 8.0}, r"batch_size is 8\.0, expected an integer"),
        ({"batch_size": True}, "batch_size is True, expected an integer"),
        ({"image_size": 0}, "image_size is 0, expected at least 1"),
        ({"cpus": 0}, "cpus is 0, expected at least 1"),
        ({"cpus": 1.5}, r"cpus is 1\.5, expected an integer"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"seed": 1 << 63}, r"seed is 9223372036854775808, expected at least 0 and less than 2\*\*63"),
        ({"rank": 2, "world_size": 2}, "rank is 2, expected 0 to 1 in a world of 2"),
        ({"rank": -1}, "rank is -1, expected at least 0"),
        ({"world_size": 0}, "world_size is 0, expected at least 1"),
        ({"device": torch.device("meta")}, "device is meta, expected cpu, or cuda where PyTorch finds a GPU"),
    ],
)
def test_arguments_out_of_range(beton: Path, changed: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"batch_size": 8, "image_size": 32, "seed": 0, "cpus": 1, "device": CPU} | changed
    with pytest.raises((ValueError, TypeError), match=message):
        PretrainingLoader(beton, augmentation=AugmentationSettings(), **options)
    if "seed" not in changed:
        del options["seed"]
        with pytest.raises((ValueError, TypeError), match=message):
            EvaluationLoader(beton, **options)


def test_epochs_and_crops_out_of_range(beton: Path) -> None:
    with pytest.raises(ValueError, match="epoch is -1, expected at least 0"):
        pretraining(beton, 8).epoch(-1)
    with pytest.raises(ValueError, match="augmentation is empty, expected one for each crop of an image"):
        pretraining(beton, 8, ())
    with pytest.raises(ValueError, match=r"crop is 1\.5, expected a share of the shorter side"):
        EvaluationLoader(beton, 8, 32, cpus=1, device=CPU, crop=1.5)


def test_batches_stay_as_they_were_given(beton: Path) -> None:
    kept, prints = [], []
    for batch in pretraining(beton, 8, (PLAIN, SECOND)).epoch(0):
        kept.append(batch)
        prints.append(fingerprint(batch))
    assert [fingerprint(batch) for batch in kept] == prints


def test_evaluation_shows_raw_images_pixel_by_pixel(tmp_path: Path) -> None:
    pixels = [picture(row, 32, 32) for row in range(11)]
    for row, image in enumerate(pixels):
        folder = tmp_path / "tree" / "ab"[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row:02}.png")
    prepare(settings(tmp_path / "tree", tmp_path / "x.beton"))
    pixels = pixels[0::2] + pixels[1::2]
    loaders = [EvaluationLoader(tmp_path / "x.beton", 4, 32, cpus=1, device=CPU, rank=r, world_size=2) for r in (0, 1)]
    assert len(loaders[0]) == len(loaders[1]) == 2
    seen = []
    for loader in loaders:
        for batch in loader:
            assert batch.images.shape == (4, 3, 32, 32)
            for n, image, valid in zip(batch.indices, batch.images, batch.valid, strict=True):
                assert np.array_equal(image.permute(1, 2, 0), pixels[n])
                seen += [int(n)] if valid else []
    assert sorted(seen) == list(range(11))


def test_jpeg_is_within_its_error(imagenet_sample: Path, tmp_path: Path) -> None:
    """ImageNet's JPEGs through JPEG 90 with 4:2:0 chroma: 34 dB or better on average, no image under 26 dB."""
    source = SourceSettings(kind="imagefolder", path=str(imagenet_sample))
    manifest = prepare(settings(source, tmp_path / "x.beton", "imagenet", workers=2))
    assert manifest.samples == 125
    assert max(manifest.height[1], manifest.width[1]) <= 512
    originals = list(open_source(source))
    ratios = []
    for batch in EvaluationLoader(tmp_path / "x.beton", 25, 256, cpus=2, device=CPU):
        for n, image in zip(batch.indices, batch.images, strict=True):
            exact = encode(0, originals[n], Encoding("raw", 512))
            assert isinstance(exact, EncodedImage)
            pixels = np.frombuffer(exact.data, np.uint8).reshape(exact.height, exact.width, 3)
            side = min(pixels.shape[:2])
            box = np.array([(exact.height - side) // 2, (exact.width - side) // 2, side, side])
            error = image.permute(1, 2, 0).numpy().astype(float) - cropped(pixels, box, False, 256)
            ratios.append(10 * np.log10(255**2 / np.mean(error**2)))
    assert np.mean(ratios) > 34
    assert np.min(ratios) > 26


@pytest.mark.parametrize("damage", ["missing", "manifest", "truncated", "another"])
def test_a_beton_that_cannot_be_trusted_is_refused(beton: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy.beton"
    data = beton.read_bytes()
    manifest_path(copy).write_bytes(manifest_path(beton).read_bytes())
    match damage:
        case "manifest":
            copy.write_bytes(data)
            manifest_path(copy).unlink()
        case "truncated":
            copy.write_bytes(data[: len(data) // 2])
        case "another":
            copy.write_bytes(bytes(len(data)))
    with pytest.raises(DataError, match=r"copy\.beton: (no such beton|has no manifest|has .* bytes|is not a)"):
        pretraining(copy, 8)


def test_a_manifest_that_counts_otherwise(beton: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.beton"
    copy.write_bytes(beton.read_bytes())
    manifest_path(copy).write_text(manifest_path(beton).read_text().replace('"samples": 75', '"samples": 76'))
    with pytest.raises(DataError, match=r"copy\.beton: holds 75 images where its manifest says 76"):
        pretraining(copy, 8)


def test_thin_images_and_extreme_ratios(tmp_path: Path) -> None:
    """An empty box would end the process in OpenCV."""
    for name, (height, width) in {"a": (1, 300), "b": (300, 1), "c": (1, 1)}.items():
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.fromarray(picture(0, height, width)).save(tmp_path / "tree" / name / "x.png")
    prepare(
        settings(tmp_path / "tree", tmp_path / "x.beton", encoding=EncodingSettings(preset="small", max_resolution=512))
    )
    for ratio in (0.1, 1.0, 10.0):
        settings_of = AugmentationSettings(crop_scale=(0.001, 1), crop_ratio=(ratio, ratio))
        assert len(by_index(list(pretraining(tmp_path / "x.beton", 3, settings_of).epoch(0)))) == 3


def test_more_images_asked_for_than_there_are(beton: Path) -> None:
    with pytest.raises(DataError, match="holds 75 images, fewer than one global batch of 80"):
        pretraining(beton, 40, world_size=2)
    for each in (AUGMENTED, (PLAIN, SECOND)):
        with pytest.raises(DataError, match="mixup pairs"):
            pretraining(beton, 15, each)


def probe(what: str, beton: Path, *arguments: object) -> Any:
    command = [sys.executable, "-m", "tests.data.probe", what, str(beton), *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.slow
def test_killed_and_resumed_follows_the_uninterrupted_stream(beton: Path) -> None:
    command = [sys.executable, "-m", "tests.data.probe", "stream", str(beton)]
    process = subprocess.Popen([*command, "5", "0", "0.3"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    process.kill()
    process.wait()
    rest = subprocess.run([*command, "5", "4", "0"], stdout=subprocess.PIPE, text=True, check=True)
    uninterrupted = [fingerprint(batch) for batch in pretraining(beton, 8, CROPS).epoch(5)]
    assert [json.loads(line) for line in [*lines, *rest.stdout.splitlines()]] == uninterrupted


@pytest.mark.slow
def test_memory_does_not_grow_over_a_beton_larger_than_the_process(tmp_path: Path) -> None:
    """Pages of the mapped file are the system's cache, which it takes back; what counts is anonymous memory."""
    path = tmp_path / "large.beton"
    image = encode(0, Record("x", 0, picture(0, 512, 512)), Encoding("raw", 512))
    assert isinstance(image, EncodedImage)
    with BetonWriter(path, 1600) as writer:
        for _ in range(1600):
            writer.append(image)
    manifest = Manifest(
        source={}, samples=1600, classes=[], class_counts=[], encoding={}, height=(512, 512), width=(512, 512),
        bytes=path.stat().st_size, sha256="0" * 64, created="2026-01-01T00:00:00+00:00", versions={},
    )  # fmt: skip
    manifest_path(path).write_text(manifest.model_dump_json())
    size = path.stat().st_size
    (first, _), *_, (last, _) = probe("epochs", path, 3)
    path.unlink()
    assert size > last
    # The allocator settles over some epochs (about 80 MB), which the next test waits for.
    assert last - first < 0.1 * size


@pytest.mark.slow
def test_epochs_leak_neither_memory_nor_threads(beton: Path) -> None:
    most, threads = zip(*probe("epochs", beton, 150), strict=True)
    # One that just ended may still be counted; a leak would be 75 or 150.
    assert max(threads) <= min(threads) + 3
    # FFCV's buffers for an epoch are 6 MB; the allocator's own ups and downs about 20.
    assert max(most[100:]) - max(most[50:100]) < 48 << 20


@pytest.mark.slow
def test_no_more_cpus_than_the_share(imagenet_sample: Path, tmp_path: Path) -> None:
    source = SourceSettings(kind="imagefolder", path=str(imagenet_sample))
    prepare(settings(source, tmp_path / "x.beton", "imagenet", workers=2))
    seen = probe("cpus", tmp_path / "x.beton", 1)
    # One thread decodes; the main thread hands over what was decoded. What others do here leaves it less.
    assert 0.1 < seen["cpus"] < 1.3
    assert seen["torch"] == 2


def test_more_threads_than_the_process_may_use_are_not_started(beton: Path) -> None:
    before = torch.get_num_threads()
    batches = list(pretraining(beton, 25, cpus=4096).epoch(0))
    assert len(batches) == 3
    assert torch.get_num_threads() == before
    assert read_manifest(beton).samples == 75
