"""The checks of images would find what they look for; the images themselves are made by `python -m tests.image`."""

from pathlib import Path
from typing import Any

import pytest

from tests.image import look
from tests.image.context import PLACES, ROOT, VARIABLES, planted_context
from tests.image.engine import Engine
from tests.image.report import FaultError, Step, run_steps, table


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """With an image of two layers that are folders: `lower` and `upper`."""
    known: dict[str, Any] = {
        "GraphDriver": {"Data": {"UpperDir": f"{tmp_path}/upper", "LowerDir": f"{tmp_path}/lower"}}
    }
    known |= {"RootFS": {"Layers": ["upper", "lower"]}, "Size": 2**30, "Config": {"Env": ["HOME=/home/metaug"]}}
    for name in ("upper", "lower"):
        (tmp_path / name).mkdir()
    (tmp_path / "upper" / "job.py").write_text("what is known\n")
    engine = Engine(tmp_path / "store", tmp_path / "log.txt")
    monkeypatch.setattr(engine, "inspect", lambda image: known)
    monkeypatch.setattr(engine, "podman", lambda *arguments: "RUN curl --header 'token: in-history'")
    return engine


def test_a_secret_that_a_later_layer_deleted_is_found(engine: Engine, tmp_path: Path) -> None:
    planted = {".env": "hunter2", "RAY_AUTH_TOKEN": "swordfish"}
    assert look.secrets(engine, "image", planted, "what is known").startswith("none of 2 secrets")
    (tmp_path / "lower" / "settings.pyc").write_bytes(b"\0\1hunter2\0")
    with pytest.raises(FaultError, match=r"secrets of \.env$"):
        look.secrets(engine, "image", planted, "what is known")


def test_a_secret_of_the_history_is_found(engine: Engine) -> None:
    with pytest.raises(FaultError, match="secrets of TOKEN"):
        look.secrets(engine, "image", {"TOKEN": "in-history"}, "what is known")


def test_a_search_that_finds_nothing_at_all_is_a_fault(engine: Engine) -> None:
    with pytest.raises(FaultError, match="does not even find"):
        look.secrets(engine, "image", {"TOKEN": "hunter2"}, "what is not there")


def test_too_many_layers_are_a_fault(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look.layers(engine, "image") == "1.07 GB in 2 layers"
    monkeypatch.setattr(look, "MOST_LAYERS", 1)
    with pytest.raises(FaultError, match="2 layers"):
        look.layers(engine, "image")


def test_each_file_of_the_environment_has_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "opt/metaug_ray/.venv/lib/a.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    (file.parent / "link").symlink_to("a.py")
    assert look.package_hashes(tmp_path) == {
        "lib/a.py": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    }


def test_the_context_is_this_tree_with_a_secret_in_each_place(tmp_path: Path) -> None:
    context = planted_context(tmp_path)
    assert (tmp_path / "docker/Dockerfile").read_bytes() == (ROOT / "docker/Dockerfile").read_bytes()
    assert all(context.planted[place] in (tmp_path / place).read_text() for place in PLACES)
    assert len(set(context.planted.values())) == len(PLACES) + len(VARIABLES)


def test_steps_end_at_one_that_others_need(tmp_path: Path) -> None:
    def broken() -> str:
        raise FaultError("no room\n left")

    steps = [
        Step("a", lambda: "one"),
        Step("b", lambda: str(1 // 0)),
        Step("c", broken, needed=True),
        Step("d", broken),
    ]
    rows = run_steps(steps, tmp_path / "log.txt")
    assert [(row.name, row.found, row.verdict) for row in rows] == [
        ("a", "one", "ok"),
        ("b", "ZeroDivisionError: integer division or modulo by zero", "FAULT"),
        ("c", "no room left", "FAULT"),
    ]
    assert "| c | no room left | 0 | FAULT |" in table(rows)
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()
