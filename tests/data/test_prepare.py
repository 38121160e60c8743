import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from metaug_ray.config import EncodingSettings, SourceSettings
from metaug_ray.data.beton import sha256_of
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import manifest_path, read_manifest
from metaug_ray.data.mapped import open_beton
from metaug_ray.data.prepare import open_source, prepare, resolve_encoding
from tests.data.images import image_tree, picture, settings
from tests.log import Log

JOB = [sys.executable, "jobs/prepare_data.py"]
SHAPES = ["--source.kind", "shapes", "--source.size", "32", "--encoding.preset", "small", "--workers", "1"]


def left(folder: Path) -> list[str]:
    """What lies in a folder, but for the lock that stays."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return image_tree(tmp_path / "tree")


def test_the_number_of_workers_does_not_change_a_byte(tree: Path, tmp_path: Path) -> None:
    digests = set()
    for workers in (1, 3):
        output = tmp_path / "out" / f"{workers}.beton"
        manifest = prepare(settings(tree, output, "imagenet", workers=workers))
        assert sha256_of(output) == manifest.sha256 == read_manifest(output).sha256
        digests.add(manifest.sha256)
    assert len(digests) == 1
    assert left(tmp_path / "out") == ["1.beton", "1.beton.json", "3.beton", "3.beton.json"]


def test_settings_take_the_place_of_the_presets(tree: Path) -> None:
    preset = resolve_encoding(EncodingSettings(preset="imagenet"))
    assert (preset.kind, preset.max_resolution, preset.jpeg_quality) == ("jpeg", 512, 90)
    changed = resolve_encoding(EncodingSettings(preset="imagenet", kind="mixed", max_resolution=64, jpeg_fraction=0.25))
    assert (changed.kind, changed.max_resolution, changed.jpeg_quality, changed.jpeg_fraction) == (
        "mixed",
        64,
        90,
        0.25,
    )


@pytest.mark.parametrize("kind", ["imagefolder", "unlabelled", "parquet", "shapes"])
def test_every_kind_of_source_opens(tree: Path, tmp_path: Path, kind: str) -> None:
    match kind:
        case "shapes":
            source = open_source(SourceSettings(kind="shapes", count=40, size=16))
            assert (len(source), len(source.classes)) == (40, 8)
        case "parquet":
            with pytest.raises(DataError, match="not a readable Parquet file"):
                open_source(SourceSettings(kind="parquet", path=str(tree / "cat" / "0.png")))
        case _:
            unlabelled = kind == "unlabelled"
            source = open_source(SourceSettings(kind="imagefolder", path=str(tree), unlabelled=unlabelled))
            assert len(source.classes) == (0 if unlabelled else 3)


def test_unlabelled_images_keep_no_label(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.beton"
    source = SourceSettings(kind="imagefolder", path=str(tree), unlabelled=True)
    manifest = prepare(settings(source, output))
    assert manifest.classes == manifest.class_counts == []
    assert open_beton(output).labels.tolist() == [-1] * 18


def test_an_existing_beton_stays_unless_told(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.beton"
    first = prepare(settings(tree, output))
    before = output.stat()
    with pytest.raises(DataError, match=r"x\.beton: exists already; pass --overwrite"):
        prepare(settings(tree, output))
    assert output.stat() == before
    Image.fromarray(picture(1)).save(tree / "cat" / "new.png")
    second = prepare(settings(tree, output, overwrite=True))
    assert (first.samples, second.samples, read_manifest(output).samples) == (18, 19, 19)


def test_a_failed_overwrite_keeps_the_old_beton(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.beton"
    first = prepare(settings(tree, output))
    (tree / "emu" / "5.png").write_bytes(b"")
    with pytest.raises(DataError, match="zero bytes"):
        prepare(settings(tree, output, overwrite=True))
    assert sha256_of(output) == first.sha256 == read_manifest(output).sha256


@pytest.mark.parametrize(("content", "reason"), [(b"", "it has zero bytes"), (b"<html>", "it is not an image")])
def test_an_unreadable_image_stops_or_is_listed(tree: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    bad = tree / "dog" / "3.png"
    bad.write_bytes(content)
    output = tmp_path / "out" / "x.beton"
    with pytest.raises(DataError, match=rf"{bad}: cannot be read as an image \({reason}\).*--skip-unreadable"):
        prepare(settings(tree, output))
    assert left(output.parent) == []
    manifest = prepare(settings(tree, output, skip_unreadable=True))
    assert [(skipped.name, skipped.reason) for skipped in manifest.skipped] == [(str(bad), reason)]
    assert manifest.samples == 17
    assert open_beton(output).labels.tolist() == [0] * 6 + [1] * 5 + [2] * 6


def test_no_readable_image_at_all(tree: Path, tmp_path: Path) -> None:
    for file in tree.rglob("*.png"):
        file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of the 18 images can be read, .*cat/0\.png among them"):
        prepare(settings(tree, tmp_path / "x.beton", skip_unreadable=True))


def test_a_second_writer_at_the_same_target(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.beton"
    with (
        FileLock(tmp_path / ".x.beton.lock"),
        pytest.raises(DataError, match=r"x\.beton: another process is writing it"),
    ):
        prepare(settings(tree, output))
    prepare(settings(tree, output))


def test_a_disk_that_is_seen_to_be_too_small(small_disk: Path) -> None:
    source = SourceSettings(kind="shapes", count=3000, size=64)
    with pytest.raises(DataError, match=r"the beton will take about 35\.2 MiB and 16\.0 MiB are free"):
        prepare(settings(source, small_disk / "x.beton"))
    assert left(small_disk) == []


@pytest.mark.parametrize("mebibytes", [1, 9])
def test_a_disk_that_becomes_full(small_disk: Path, tmp_path: Path, mebibytes: int) -> None:
    # The first images are small and the rest are large, so that the projection is too low.
    tree = image_tree(tmp_path / "tree", per_class=40)
    for file in (tree / "emu").iterdir():
        Image.fromarray(np.zeros((512, 512, 3), np.uint8)).save(file)
    # Full at the first pages, and at the end.
    (small_disk / "filler").write_bytes(b"x" * ((16 - mebibytes) << 20))
    encoding = EncodingSettings(preset="small", max_resolution=512)
    with pytest.raises(DataError, match=r"x\.beton: the disk is full"):
        prepare(settings(tree, small_disk / "x.beton", encoding=encoding))
    assert left(small_disk) == ["filler"]


def test_an_output_folder_that_cannot_be_made(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written \((Not a directory|File exists)\)"):
        prepare(settings(tree, tmp_path / "file" / "x.beton"))


def test_a_folder_in_the_place_of_the_output(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x.beton").mkdir()
    with pytest.raises(DataError, match=r"x\.beton: is a folder; choose another --output"):
        prepare(settings(tree, tmp_path / "x.beton", overwrite=True))


def test_an_output_where_no_file_can_be_made(tree: Path) -> None:
    with pytest.raises(DataError, match=r"/proc/x\.beton: cannot be written \(No such file or directory\)"):
        prepare(settings(tree, Path("/proc/x.beton")))


def test_names_that_are_no_unicode(tree: Path, tmp_path: Path) -> None:
    (tree / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    (tree / "cat" / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    output = tmp_path / "x.beton"
    with pytest.raises(DataError, match=r"cat/caf\\xe9\.png: cannot be read as an image"):
        prepare(settings(tree, output))
    prepare(settings(tree, output, skip_unreadable=True))
    manifest = read_manifest(output)
    assert [skipped.name for skipped in manifest.skipped] == [f"{tree}/cat/caf\\xe9.png"]
    assert [passed.names for passed in manifest.passed_over] == [[f"{tree}/cat/caf\\xe9.txt"]]


def test_a_class_name_that_is_no_unicode_is_refused_before_anything_is_read(tree: Path, tmp_path: Path) -> None:
    (tree / "cat").rename(tree / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"tree: the class name 'caf\\xe9' is not UTF-8; rename it"):
        prepare(settings(tree, tmp_path / "x.beton"))


def test_an_output_inside_the_data_set(tree: Path) -> None:
    output = tree / "betons" / "deep" / "train.beton"
    first = prepare(settings(tree, output))
    second = prepare(settings(tree, output, overwrite=True))
    assert first.classes == ["cat", "dog", "emu"]
    assert first.sha256 == second.sha256
    assert first.passed_over == second.passed_over == []


@pytest.mark.parametrize("length", [241, 242])
def test_a_name_that_the_disk_does_not_take_is_refused_at_once(tree: Path, tmp_path: Path, length: int) -> None:
    output = tmp_path / "out" / ("n" * (length - 6) + ".beton")
    # Nothing is read: this would be named first.
    (tree / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"File name too long|zero bytes") as refused:
        prepare(settings(tree, output))
    assert ("zero bytes" in str(refused.value)) == (length <= 241)
    assert left(output.parent) == []


def test_a_folder_in_the_place_of_the_manifest(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x.beton.json").mkdir()
    with pytest.raises(DataError, match=r"x\.beton\.json: is a folder; choose another --output"):
        prepare(settings(tree, tmp_path / "x.beton"))


# Squares of four pixels, which libjpeg-turbo's fast transform turns black where they are white.
SQUARES = Image.fromarray((np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((4, 4))) * 255).astype(np.uint8))


def test_drawings_that_ffcv_decodes_to_something_else_are_refused_at_once(tree: Path, tmp_path: Path) -> None:
    for file in tree.rglob("*.png"):
        SQUARES.save(file)
    (tree / "emu" / "5.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"FFCV decodes 17 of 17 JPEGs.* levels off.*store raw pixels \(--encoding.kind raw"
    ):
        prepare(settings(tree, tmp_path / "x.beton", "imagenet"))
    assert left(tmp_path) == ["tree"]


def test_odd_images_are_counted_and_told_of(tree: Path, tmp_path: Path, log: Log) -> None:
    Image.new("RGBA", (20, 20), (0, 0, 0, 99)).save(tree / "cat" / "0.png")
    twelve = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(twelve).save(tree / "dog" / "1.png")
    (tree / "dog" / "notes.txt").touch()
    SQUARES.save(tree / "emu" / "0.png")
    manifest = prepare(settings(tree, tmp_path / "x.beton", "imagenet"))
    assert (manifest.grey, manifest.one_colour, manifest.dark) == (3, 1, 1)
    said = "\n".join(log.messages)
    assert f"1 of 18 images is of a single colour, {tree}/cat/0.png the first of them" in said
    assert f"1 of 18 images is nearly black (no level above 63 of 255), {tree}/dog/1.png the first of them" in said
    assert "3 of 18 images are grey" in said
    assert "1 of 18 JPEGs are more than 2 levels off as FFCV decodes them" in said
    assert f"1 passed over: not an image, such as {tree}/dog/notes.txt" in said
    assert read_manifest(tmp_path / "x.beton") == manifest
    assert [(passed.reason, passed.count) for passed in manifest.passed_over] == [("not an image", 1)]


def test_grey_images_alone_are_told_of(tree: Path, tmp_path: Path, log: Log) -> None:
    for file in tree.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    assert prepare(settings(tree, tmp_path / "x.beton")).grey == 18
    assert "all images are grey: the views of colour alone, ab and dbdr, hold nothing of them" in log.messages


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_the_classes_of_another_beton(tree: Path, tmp_path: Path, log: Log, layout: str) -> None:
    prepare(settings(tree, tmp_path / "train.beton"))
    (tree / "dog").rename(tmp_path / "dog")
    path = tree
    if layout == "parquet":
        path = tmp_path / "val.parquet"
        images = [(tree / name / "0.png").read_bytes() for name in ("emu", "cat")]
        pq.write_table(pa.table({"image": images, "label": ["emu", "cat"]}), path)
    source = SourceSettings(kind=layout, path=str(path), classes=str(tmp_path / "train.beton"))
    manifest = prepare(settings(source, tmp_path / "val.beton"))
    assert manifest.classes == ["cat", "dog", "emu"]
    assert manifest.class_counts[1] == 0
    assert 0 not in (manifest.class_counts[0], manifest.class_counts[2])
    assert manifest.source["classes"] == str(tmp_path / "train.beton")
    assert "1 of 3 classes have no images, dog the first of them" in log.messages


def test_a_part_has_the_classes_of_the_whole_and_is_named_in_the_manifest(tree: Path, tmp_path: Path, log: Log) -> None:
    for file in sorted((tree / "dog").iterdir())[1:]:
        file.unlink()
    (tree / "dog" / "notes.txt").touch()
    source = SourceSettings(kind="imagefolder", path=str(tree), part=(0, 0.5))
    manifests = [
        prepare(settings(source.model_copy(update={"part": part}), tmp_path / f"{part[0]}.beton"))
        for part in ((0, 0.5), (0.5, 1))
    ]
    assert {tuple(manifest.classes) for manifest in manifests} == {("cat", "dog", "emu")}
    assert sorted(manifest.class_counts for manifest in manifests) == [[3, 0, 3], [3, 1, 3]]
    assert [manifest.source["part"] for manifest in manifests] == ["0,0.5", "0.5,1"]
    assert {manifest.source["part_of"] for manifest in manifests} == {"13"}
    assert "1 of 3 classes have no images, dog the first of them" in log.messages
    assert [of.reason for manifest in manifests for of in manifest.passed_over] == ["not an image"] * 2


def test_a_part_without_images_is_refused_before_any_is_read(tree: Path, tmp_path: Path) -> None:
    for file in tree.rglob("*.png"):
        file.write_bytes(b"")
    source = SourceSettings(kind="imagefolder", path=str(tree), part=(0.5, 0.501))
    with pytest.raises(DataError, match=r"^source\.part: 0\.5,0\.501 of 18 images holds none; give"):
        prepare(settings(source, tmp_path / "x.beton"))


def test_a_beton_is_as_large_as_its_images(tmp_path: Path) -> None:
    source = SourceSettings(kind="shapes", count=10, size=16)
    encoding = EncodingSettings(preset="small", max_resolution=4096)
    assert prepare(settings(source, tmp_path / "x.beton", encoding=encoding)).bytes < 5 << 20


def job(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*JOB, *map(str, arguments)], capture_output=True, text=True, env=os.environ | (env or {}))


def test_the_job_writes_and_reports(tmp_path: Path) -> None:
    output = tmp_path / "shapes.beton"
    done = job(*SHAPES, "--source.count", "100", "--source.part", "0.2,0.4", "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"{output}: 20 images (part 0.2,0.4 of 100), 8 classes, SHA-256 {sha256_of(output)}" in done.stdout
    assert "images/s" in done.stdout
    assert "every image read back and compared" in done.stdout
    again = job(*SHAPES, "--source.count", "100", "--output", output)
    assert again.returncode == 1
    assert again.stderr.strip().endswith("pass --overwrite to replace it, or choose another --output")
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers: got '0'; expected at least 1"),
        (["--encoding.jpeg-quality", "101"], "encoding.jpeg_quality: got '101'; expected at most 100"),
        (["--source.size", "8"], "source.size: got '8'; expected at least 16"),
        (["--source.path", "somewhere"], "source.path: shapes are generated and read no path"),
        (["--output", "x.bin"], "output: " + str(Path("x.bin").absolute()) + " must end in .beton"),
        (["--source.kind", "imagefolder"], "source.path: the source 'imagefolder' needs the path of its files"),
        (["--no-such-flag", "1"], "unrecognized arguments: --no-such-flag"),
        (["--encoding.preset", "huge"], "huge"),
    ],
)
def test_wrong_arguments_end_the_job_at_once(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = job(*SHAPES, "--output", tmp_path / "x.beton", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_from_the_environment(tmp_path: Path) -> None:
    variables = {"SOURCE__KIND": "shapes", "ENCODING__PRESET": "huge", "OUTPUT": str(tmp_path / "x.beton")}
    done = job(env={f"METAUG_{name}": value for name, value in variables.items()})
    assert done.returncode == 2
    assert "METAUG_ENCODING__PRESET: got 'huge'; expected 'imagenet', 'imagenet-fast' or 'small'" in done.stderr
    done = job(env={"METAUG_SOURCE": "abc"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert 'error parsing value for field "source"' in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_writing_leaves_nothing_that_looks_finished(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "x.beton"
    command = [*JOB, *SHAPES, "--source.count", "1000000", "--output", str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    partial = tmp_path / ".x.beton.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 0):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGKILL: -9}[number]
    assert left(tmp_path) == ([".x.beton.partial"] if number == signal.SIGKILL else [])
    # The processes that decode end too, though nobody told them.
    deadline = time.monotonic() + 10
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if number == signal.SIGKILL:
        done = job(*SHAPES, "--source.count", "100", "--output", output)
        assert done.returncode == 0, done.stderr
        assert left(tmp_path) == ["x.beton", "x.beton.json"]


def group_is_alive(group: int) -> bool:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = status.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


@pytest.mark.slow
def test_cifar10_raw_is_identical_pixel_by_pixel(cifar10_parquet: Path, tmp_path: Path) -> None:
    source = SourceSettings(kind="parquet", path=str(cifar10_parquet / "test.parquet"))
    output = tmp_path / "cifar10.beton"
    manifest = prepare(settings(source, output, workers=2))
    assert manifest.samples == 10_000
    assert manifest.class_counts == [1000] * 10
    reader = open_beton(output)
    content = np.memmap(output, np.uint8, "r")
    for row, record in enumerate(open_source(source)):
        assert isinstance(record.image, bytes)
        start = int(reader.alloc_table["ptr"][row])
        expected = np.asarray(Image.open(io.BytesIO(record.image)))
        assert np.array_equal(content[start : start + 3072].reshape(32, 32, 3), expected)
    assert json.loads(manifest_path(output).read_text())["encoding"]["kind"] == "raw"
