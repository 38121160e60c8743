"""Which weights of another run fit: forms that differ in their targets."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaug_ray.config import PretrainSettings
from metaug_ray.config.recorded import fixed_settings
from metaug_ray.data.manifest import read_manifest
from metaug_ray.runtime.checkpoint import snapshot, write
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.state import TrainingState, build_state
from metaug_ray.training.warm_start import WarmStart, find_warm_start
from tests.training.small import small_settings

FORMS: dict[str, dict[str, Any]] = {
    "bank": {},
    "batch": {"method": {"targets": "batch"}},
    "neighbours": {
        "method": {"targets": "neighbours"},
        "support": {"size": 32},
        "model": {"prediction_hidden_size": 8},
    },
    "other heads": {
        "method": {"targets": "neighbours"},
        "support": {"size": 32},
        "model": {"prediction_hidden_size": 16},
    },
    "other networks": {"model": {"feature_size": 8}},
}


def settings_of(form: str, beton: Path, storage: Path, name: str) -> PretrainSettings:
    changes = FORMS[form]
    model = {"views": ("rgb", "rgb.2"), "encoder": "conv", "small_images": True} | changes.get("model", {})
    bank = {} if form in ("bank", "other networks") else {"bank": {"negatives": 4096}}
    changes = {**changes, "model": model, **bank, "name": name, "storage": str(storage)}
    return small_settings(beton, **changes)


def begun(form: str, beton: Path, storage: Path) -> tuple[WarmStart, TrainingState, TrainingState]:
    """A new run of a form, from the checkpoint of a run with neighbours; with both states."""
    manifest = read_manifest(beton)
    old = settings_of("neighbours", beton, storage, "old")
    folder = RunFolder(str(storage), "old")
    trained = build_state(old, manifest.samples, torch.device("cpu"))
    write(snapshot(trained), storage / "old/checkpoint_000000001", {"step": 1})
    folder.write_record({"fixed": fixed_settings(old), "data": {"sha256": manifest.sha256}})
    folder.write_json(
        "checkpoint_manager_snapshot.json", {"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_000000001"}]}
    )
    new = settings_of(form, beton, storage, "new")
    state = build_state(new.model_copy(update={"seed": 5}), manifest.samples, torch.device("cpu"))
    return find_warm_start(new, "old", manifest), state, trained


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("neighbours", ""),
        ("other heads", ", but new prediction heads"),
        ("batch", ""),
        ("bank", ", but new bank"),
    ],
)
def test_a_run_with_neighbours_begins_others(form: str, said: str, shapes_beton: Path, tmp_path: Path) -> None:
    warm_start, state, trained = begun(form, shapes_beton, tmp_path)
    assert warm_start.load(state) == f"begins with the weights of old, checkpoint_000000001{said}"
    theirs = trained.networks()["encoder"]
    for name, value in state.networks()["encoder"].items():
        new_head = ".predictor." in name and form == "other heads"
        if value.ndim < 2:  # what begins as zeros or ones is the same in new heads
            continue
        assert (value.shape == theirs[name].shape and torch.equal(value, theirs[name])) != new_head, name


def test_other_networks_are_refused(shapes_beton: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fork: the networks of 'old' are others"):
        begun("other networks", shapes_beton, tmp_path)
