import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metaug_ray.config import SourceSettings
from metaug_ray.data.beton import sha256_of
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import manifest_path, read_manifest
from metaug_ray.data.prepare import prepare
from metaug_ray.data.staging import stage, verify_in_place
from tests.data.images import prepare_tree, settings


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return prepare_tree(tmp_path / "shared")[0]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_copies_once_and_uses_the_copy_again(beton: Path, tmp_path: Path) -> None:
    copy = stage(str(beton), tmp_path / "local")
    assert copy.read_bytes() == beton.read_bytes()
    assert read_manifest(copy) == read_manifest(beton)
    assert left(tmp_path / "local") == [copy.name, f"{copy.name}.json"]
    first = copy.stat()
    assert stage(str(beton), tmp_path / "local") == copy
    assert (copy.stat().st_ino, copy.stat().st_mtime) == (first.st_ino, first.st_mtime)


def test_another_version_is_another_copy(beton: Path, tmp_path: Path) -> None:
    first = stage(str(beton), tmp_path / "local")
    next((tmp_path / "shared" / "tree" / "cat").iterdir()).unlink()
    prepare(settings(tmp_path / "shared" / "tree", beton, overwrite=True))
    second = stage(str(beton), tmp_path / "local")
    assert first != second
    assert first.exists()


@pytest.mark.parametrize("name", ["猫 [1] $x %s ~", "n" * 240, "猫" * 80])
def test_betons_of_any_name(beton: Path, tmp_path: Path, name: str) -> None:
    named = beton.rename(beton.with_name(f"{name}.beton"))
    manifest_path(beton).rename(manifest_path(named))
    copy = stage(str(named), tmp_path / "local")
    assert copy.name.startswith(name[:60])
    assert stage(str(named), tmp_path / "local") == copy
    assert verify_in_place(copy) == read_manifest(named)


@pytest.mark.parametrize("uri", ["file://", "http://"])
def test_uris_of_pyarrow_and_of_fsspec(tmp_path: Path, uri: str) -> None:
    # Larger than the blocks of fsspec, from a server that knows no ranges.
    beton = tmp_path / "images.beton"
    prepare(settings(SourceSettings(kind="shapes", count=1000, size=96), beton))
    assert beton.stat().st_size > 16 << 20
    if uri == "http://":
        handler = functools.partial(SimpleHTTPRequestHandler, directory=str(beton.parent))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # With options, as object stores have them.
        uri = f"http://127.0.0.1:{server.server_port}/{beton.name}?version=1"
    else:
        uri = f"file://{beton}"
    copy = stage(uri, tmp_path / "local")
    assert copy.read_bytes() == beton.read_bytes()
    with pytest.raises(DataError, match=r"nothing\.beton\.json(\?version=1)?: cannot be opened .*needs its manifest"):
        stage(uri.replace("images.beton", "nothing.beton"), tmp_path / "local")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "wrong manifest", "no manifest", "no beton", "no JSON"])
def test_a_broken_source_is_told_and_leaves_no_file(beton: Path, tmp_path: Path, damage: str) -> None:
    message = ""
    match damage:
        case "truncated":
            beton.write_bytes(beton.read_bytes()[:-1000])
            message = r"images\.beton: has .* bytes where its manifest says"
        case "flipped":
            flip_a_byte(beton)
            message = r"images\.beton: its SHA-256 is .* where its manifest says .*; its bytes were changed"
        case "wrong manifest":
            manifest = json.loads(manifest_path(beton).read_text())
            manifest_path(beton).write_text(json.dumps(manifest | {"sha256": "0" * 64}))
            message = r"images\.beton: its SHA-256 is .* the manifest belongs to another beton"
        case "no manifest":
            manifest_path(beton).unlink()
            message = r"images\.beton\.json: cannot be opened .*a beton needs its manifest beside it"
        case "no beton":
            beton.unlink()
            message = r"images\.beton: cannot be opened"
        case "no JSON":
            manifest_path(beton).write_bytes(b"\xff\xfe")
            message = r"images\.beton\.json: is not the manifest of"
    with pytest.raises(DataError, match=message):
        stage(str(beton), tmp_path / "local")
    if (tmp_path / "local").exists():
        assert [name for name in left(tmp_path / "local") if not name.endswith(".json")] == []


@pytest.mark.parametrize("touch", ["flipped", "truncated", "same"])
def test_a_copy_that_was_touched_is_checked_again(beton: Path, tmp_path: Path, touch: str) -> None:
    copy = stage(str(beton), tmp_path / "local")
    match touch:
        case "flipped":
            flip_a_byte(copy)
        case "truncated":
            copy.write_bytes(b"")
        case "same":
            os.utime(copy)
    inode = copy.stat().st_ino
    assert stage(str(beton), tmp_path / "local") == copy
    assert copy.read_bytes() == beton.read_bytes()
    assert (copy.stat().st_ino == inode) == (touch == "same")


def start_staging(beton: Path, directory: Path) -> subprocess.Popen[str]:
    script = "import sys, pathlib, metaug_ray.data.staging as s; print(s.stage(sys.argv[1], pathlib.Path(sys.argv[2])))"
    command = [sys.executable, "-c", script, str(beton), str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_workers_at_once_copy_once(beton: Path, tmp_path: Path) -> None:
    workers = [start_staging(beton, tmp_path / "local") for _ in range(4)]
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len({copy for copy, _ in answers}) == 1
    # One copy, one progress bar.
    assert sum("100%" in progress for _, progress in answers) == 1


def test_a_disk_that_is_too_small(beton: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (16 << 20))
    with pytest.raises(DataError, match=r"takes 4\.0 MiB and 0 B are free"):
        stage(str(beton), small_disk / "local")
    (small_disk / "filler").unlink()
    stage(str(beton), small_disk / "local")


def test_a_disk_that_becomes_full(beton: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_disk / "filler").write_bytes(b"x" * (14 << 20))
    # Another process takes the space after the check.
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 40))
    with pytest.raises(DataError, match=r"local: the disk became full while .*images\.beton was copied"):
        stage(str(beton), small_disk / "local")
    assert [name for name in left(small_disk / "local") if not name.endswith(".json")] == []


def test_a_killed_copy_is_begun_again(beton: Path, tmp_path: Path) -> None:
    # A source that stops in the middle: a pipe in the beton's place.
    content, pipe = beton.read_bytes(), beton.with_name("pipe.beton")
    manifest_path(pipe).write_bytes(manifest_path(beton).read_bytes())
    os.mkfifo(pipe)
    process = start_staging(pipe, tmp_path / "local")
    with pipe.open("wb") as writer:
        writer.write(content[: 1 << 20])
        writer.flush()
        deadline = time.monotonic() + 30
        while not list((tmp_path / "local").glob(".*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert [name for name in left(tmp_path / "local") if not name.startswith(".")] == []
    pipe.unlink()
    pipe.write_bytes(content)
    copy = stage(str(pipe), tmp_path / "local")
    assert sha256_of(copy) == read_manifest(copy).sha256
    assert left(tmp_path / "local") == [copy.name, f"{copy.name}.json"]


def test_a_folder_that_cannot_be_written(beton: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: .*images\.beton cannot be staged here"):
        stage(str(beton), tmp_path / "file")


def test_a_folder_where_no_file_can_be_made(beton: Path) -> None:
    with pytest.raises(DataError, match=r"/proc: .*images\.beton cannot be staged here"):
        stage(str(beton), Path("/proc"))


def test_verifying_in_place(beton: Path) -> None:
    assert verify_in_place(beton) == read_manifest(beton)
    flip_a_byte(beton)
    with pytest.raises(DataError, match=r"images\.beton: its SHA-256 is"):
        verify_in_place(beton)
