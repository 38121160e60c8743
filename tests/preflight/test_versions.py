import importlib.metadata
import platform
from pathlib import Path

import pytest

from metaug_ray.preflight import versions as module
from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.versions import Versions, check_versions, code_sum, unmet, versions
from tests.preflight.nodes import FIRST, HOME, the_fault

OURS = Versions({"Python": "3.11.7", "torch": "2.13.0", "commit": "abc", "code": "1"}, {})


def test_another_version_on_one_node() -> None:
    other = Versions({**OURS.found, "torch": "2.12.0"}, {})
    found = the_fault(check_versions({HOME: OURS, FIRST: other}, {}, HOME))
    assert (found.node, found.measured) == (FIRST, f"torch 2.12.0, and 2.13.0 on {HOME}")


def test_a_copy_without_commit_is_told_by_its_code() -> None:
    copy = Versions({name: version for name, version in OURS.found.items() if name != "commit"}, {})
    assert {found.verdict for found in check_versions({HOME: OURS, FIRST: copy}, {}, HOME)} == {"ok"}
    changed = Versions({**copy.found, "code": "2"}, {})
    assert the_fault(check_versions({HOME: OURS, FIRST: changed}, {}, HOME)).measured == f"code 2, and 1 on {HOME}"


def test_a_package_that_cannot_be_imported() -> None:
    broken = Versions(OURS.found, {"FFCV": "cannot be imported (ImportError: libopencv_core.so.4.6)"})
    found = the_fault(check_versions({HOME: broken}, {}, HOME))
    assert found.measured == "FFCV cannot be imported (ImportError: libopencv_core.so.4.6)"


def test_a_node_without_this_package() -> None:
    missing = Failed("ModuleNotFoundError: No module named 'metaug_ray'")
    found = the_fault(check_versions({HOME: OURS}, {FIRST: missing}, HOME))
    assert (found.node, found.measured) == (FIRST, missing.why)
    assert "uv sync --locked" in found.advice


def test_a_package_of_another_version_than_the_project_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["torch>=99", "no-such-package", "numpy>=2", 'pywin32; sys_platform == "win32"']
    monkeypatch.setattr(module, "_requirements", lambda: needed)
    assert unmet() == {
        "torch": f"is {importlib.metadata.version('torch')}, and >=99 is needed",
        "no-such-package": "is not installed, and no-such-package is needed",
    }


def test_what_this_python_has() -> None:
    own = versions()
    assert not own.broken
    assert own.found["Python"] == platform.python_version()
    assert {"torch", "NCCL", "FFCV", "Ray", "MLflow", "code"} <= own.found.keys()


def test_the_code_is_its_files_and_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = code_sum(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    renamed = code_sum(tmp_path)
    (tmp_path / "b.py").write_text("x = 2\n")
    changed = code_sum(tmp_path)
    assert len({before, renamed, changed}) == 3
    (tmp_path / "b.pyc").write_text("not a source")
    assert code_sum(tmp_path) == changed
