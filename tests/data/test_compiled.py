"""Compiled functions on disk: found again, and no ground to fail where they cannot be."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from added import add
assert add(2, 3) == 5
print(sum(add.stats.cache_hits.values()))
"""
MODULE = """
from metaug_ray.data.compiled import compiled

@compiled()
def add(a, b):
    return a + b
"""


def hits(folder: Path) -> int:
    """How often a new process finds the function compiled."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "added.py").write_text(MODULE)
    return tmp_path


def test_the_next_process_finds_it(module: Path) -> None:
    assert [hits(module), hits(module)] == [0, 1]


def test_broken_files_are_made_anew(module: Path) -> None:
    hits(module)
    for kind in ("nbi", "nbc"):
        (file,) = (module / "cache").rglob(f"*.{kind}")
        file.write_bytes(b"")
        assert [hits(module), hits(module)] == [0, 1], kind


def test_a_full_disk_ends_nothing(module: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(small_disk))
    with (small_disk / "all").open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
    assert [hits(module), hits(module)] == [0, 0]
