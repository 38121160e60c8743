"""Checkpoints that somebody else wrote: what they name is not run, and they lie in their folder."""

import enum
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from metaug_ray.runtime.checkpoint import load_part, write
from metaug_ray.runtime.errors import CheckpointError
from metaug_ray.runtime.plain_checkpoint import write_index_sum
from tests.security.poison import Poison, refused


def state(value: float, step: Any = 3) -> dict[str, Any]:
    return {
        "encoder": {"weight": torch.full((4, 2), value), "half": torch.full((2,), value).bfloat16()},
        "progress": {"step": step, "betas": (0.9, 0.99), "names": ["a", None], "on": True},
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write(state(1.0), tmp_path / "checkpoint", {"step": 3})
    return tmp_path / "checkpoint"


def change_index(checkpoint: Path, change: Any) -> None:
    """Change what a checkpoint's index says, and its checksum with it."""
    path = checkpoint / ".metadata"
    index = pickle.loads(path.read_bytes())
    change(index)
    path.write_bytes(pickle.dumps(index))
    write_index_sum(checkpoint)


def test_the_planted_code_would_run_in_torchs_own_loading(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / ".metadata").write_bytes(Poison(tmp_path / "mark").pickled())
    with pytest.raises(BaseException, match="CheckpointException"):
        dcp_load(state(0.0), storage_reader=FileSystemReader(checkpoint))
    assert (tmp_path / "mark").exists()


def test_what_was_written_is_read(checkpoint: Path) -> None:
    loaded = state(0.0, step=0)
    loaded["progress"] |= {"betas": (0.0, 0.0), "names": [], "on": False}
    load_part(loaded, checkpoint)
    expected = state(1.0)
    assert loaded["progress"] == expected["progress"]
    for name, value in expected["encoder"].items():
        assert torch.equal(loaded["encoder"][name], value), name


def test_an_index_that_runs_code(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / ".metadata").write_bytes(Poison(tmp_path / "mark").pickled())
    with refused(
        tmp_path / "mark", CheckpointError, str(checkpoint), ".metadata: is damaged, or names code", f"{os.name}.mkdir"
    ):
        load_part(state(0.0), checkpoint)
    # Beside what an index may name.
    change_index_to = pickle.dumps(Metadata({}, storage_data={0: Poison(tmp_path / "mark")}))
    (checkpoint / ".metadata").write_bytes(change_index_to)
    with refused(tmp_path / "mark", CheckpointError, ".metadata: is damaged, or names code"):
        load_part(state(0.0), checkpoint)


class _ByGetattr(pickle.Pickler):
    """Writes members of enumerations as Python 3.11.0 to 3.11.3 do."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, enum.Enum) else NotImplemented


def test_what_debian_12s_python_wrote_is_read_and_no_other_attribute(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / ".metadata"
    index = pickle.loads(path.read_bytes())
    written = io.BytesIO()
    _ByGetattr(written).dump(index)
    assert b"getattr" in written.getvalue()
    path.write_bytes(written.getvalue())
    write_index_sum(checkpoint)
    loaded = state(0.0, step=0)
    load_part(loaded, checkpoint)
    assert torch.equal(loaded["encoder"]["weight"], state(1.0)["encoder"]["weight"])
    for attribute in ("__class__", "mro"):
        path.write_bytes(pickle.dumps(Metadata({}, storage_data={0: _Attribute(attribute)})))
        with refused(
            tmp_path / "mark", CheckpointError, ".metadata: is damaged, or names code", f"getattr of Size.{attribute}"
        ):
            load_part(state(0.0), checkpoint)


class _Attribute:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return getattr, (torch.Size, self.name)


@pytest.mark.parametrize(
    "name", ["torch\nload", "builtins\neval", "pathlib\nos", "torch.serialization\nload", "torch\nfloat32.__class__"]
)
def test_names_near_those_of_an_index(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / ".metadata").write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
    with refused(tmp_path / "mark", CheckpointError, ".metadata: is damaged, or names code", name.replace("\n", ".")):
        load_part(state(0.0), checkpoint)


def test_a_value_that_runs_code(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    dcp_save(state(1.0, step=Poison(tmp_path / "mark")), storage_writer=FileSystemWriter(checkpoint), no_dist=True)
    with refused(tmp_path / "mark", CheckpointError, str(checkpoint), "one of its parts is damaged or names code"):
        load_part(state(0.0), checkpoint)


def test_a_tensor_in_whose_place_code_stands(checkpoint: Path, tmp_path: Path) -> None:
    """As bytes of a tensor, and as a value that takes a tensor's place in the index."""
    torch.save(Poison(tmp_path / "mark"), tmp_path / "poison")
    poison = (tmp_path / "poison").read_bytes()
    (checkpoint / "__9_0.distcp").write_bytes(poison)

    def point(index: Any) -> None:
        for name, place in index.storage_data.items():
            if name.fqn == "encoder.weight":
                place.relative_path, place.offset, place.length = "__9_0.distcp", 0, len(poison)

    change_index(checkpoint, point)
    with refused(tmp_path / "mark", CheckpointError, "one of its parts is damaged or names code"):
        load_part(state(0.0), checkpoint)

    def replace(index: Any) -> None:
        index.state_dict_metadata["encoder.weight"] = BytesStorageMetadata()
        index.storage_data = {
            type(name)(name.fqn) if name.fqn == "encoder.weight" else name: place
            for name, place in index.storage_data.items()
        }

    change_index(checkpoint, replace)
    with refused(tmp_path / "mark", CheckpointError, "one of its parts is damaged or names code"):
        load_part(state(0.0), checkpoint)


@pytest.mark.parametrize(
    "part", ["../elsewhere.distcp", "/etc/hostname", "__0_0.distcp/../../__0_0.distcp", "run.json"]
)
def test_parts_that_lie_elsewhere(checkpoint: Path, tmp_path: Path, part: str) -> None:
    (tmp_path / "elsewhere.distcp").write_bytes((checkpoint / "__0_0.distcp").read_bytes())

    def point(index: Any) -> None:
        for place in index.storage_data.values():
            place.relative_path = part

    change_index(checkpoint, point)
    with refused(tmp_path / "mark", CheckpointError, f"names '{part}', which is no part in the checkpoint's folder"):
        load_part(state(0.0), checkpoint)


def test_a_part_that_is_a_link_to_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    part = checkpoint / "__0_0.distcp"
    part.rename(tmp_path / "elsewhere.distcp")
    part.symlink_to(tmp_path / "elsewhere.distcp")
    with refused(tmp_path / "mark", CheckpointError, "is no part in the checkpoint's folder"):
        load_part(state(0.0), checkpoint)
