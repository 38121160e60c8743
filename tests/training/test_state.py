import pickle
from pathlib import Path

import pytest
import torch

from metaug_ray.runtime.checkpoint import describe, load, snapshot, write
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import CheckpointError, DamagedCheckpointError
from metaug_ray.runtime.plain_checkpoint import damage, read_index
from metaug_ray.training.state import build_state
from metaug_ray.training.warm_start import WarmStart
from tests.training.small import run_plain, small_settings

CPU = torch.device("cpu")


def test_the_same_settings_build_the_same_run_and_leave_torch_as_it_was(shapes_beton: Path) -> None:
    settings = small_settings(shapes_beton)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    a = build_state(settings, 96, CPU).networks()
    assert torch.equal(torch.rand(3), expected)
    b = build_state(settings, 96, CPU).networks()
    other = build_state(settings.model_copy(update={"seed": 1}), 96, CPU).networks()
    for part in a:
        for name, value in a[part].items():
            assert torch.equal(value, b[part][name])
    assert not torch.equal(a["encoder"]["heads.l.linear.weight"], other["encoder"]["heads.l.linear.weight"])
    assert not torch.equal(a["bank"]["rows"], other["bank"]["rows"])


def test_a_snapshot_stays_while_training_moves_on(shapes_beton: Path, tmp_path: Path) -> None:
    settings = small_settings(shapes_beton, training={"epochs": 1})
    recorder, state = run_plain(0, settings)
    assert recorder.saved == [6]
    copied = snapshot(state)
    before = copied["encoder"]["heads.l.linear.weight"].clone(), copied["bank"]["rows"].clone()
    with torch.no_grad():
        for tensor in (*state.metaug.model.encoder.parameters(), state.metaug.targets.state_dict()["rows"]):
            tensor.zero_()
        for _, optimizer in state.optimizers.values():
            for values in optimizer.state.values():
                for value in values.values():
                    if value is not None:
                        value.zero_()
    assert torch.equal(copied["encoder"]["heads.l.linear.weight"], before[0])
    assert torch.equal(copied["bank"]["rows"], before[1])
    write(copied, tmp_path / "checkpoint", {"step": 6})
    assert describe(tmp_path / "checkpoint") == {"step": 6}
    load(state, tmp_path / "checkpoint")
    assert torch.equal(state.metaug.model.eager_encoder.heads["l"].linear.weight, before[0])
    assert torch.equal(state.metaug.targets.state_dict()["rows"], before[1])
    head = next(iter(state.optimizers["head"][1].state.values()))
    assert head["exp_avg"].abs().sum() > 0
    assert head["step"] == 6


def test_a_warm_start_takes_networks_alone(shapes_beton: Path, tmp_path: Path) -> None:
    _, old = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}))
    write(snapshot(old), tmp_path / "old/checkpoint", {})
    for bank in (True, False):
        new = build_state(small_settings(shapes_beton, seed=5, method={"unified": {"beta": 2.0}}), 96, CPU)
        fresh = new.metaug.targets.state_dict()["rows"].clone()
        WarmStart(str(tmp_path), "old", "checkpoint", targets=bank, predictors=True, generators=True).load(new)
        assert new.step == 0
        assert not any(optimizer.state for _, optimizer in new.optimizers.values())
        for a, b in zip(old.networks()["encoder"].values(), new.networks()["encoder"].values(), strict=True):
            assert torch.equal(a, b)
        rows = new.metaug.targets.state_dict()["rows"]
        assert torch.equal(rows, old.metaug.targets.state_dict()["rows"] if bank else fresh)


def _flipped(content: bytes, place: int) -> bytes:
    """With one bit changed, in the midst of numbers that would still be numbers."""
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_checkpoint_that_does_not_fit_or_is_damaged_is_named(shapes_beton: Path, tmp_path: Path) -> None:
    _, state = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}))
    folder = tmp_path / "checkpoint"
    write(snapshot(state), folder, {})
    other = build_state(small_settings(shapes_beton, model={"feature_size": 8}), 96, CPU)
    with pytest.raises(CheckpointError, match="cannot be read or does not fit this run") as caught:
        load(other, folder)
    assert not isinstance(caught.value, DamagedCheckpointError)
    adam = build_state(small_settings(shapes_beton, training={"encoder": {"kind": "adam"}}), 96, CPU)
    with pytest.raises(CheckpointError, match="cannot be read or does not fit this run"):
        load(adam, folder)
    part = next(folder.glob("*.distcp"))
    content = part.read_bytes()
    load(state, folder)
    assert damage(CheckpointFiles(folder)) is None
    for damaged in (content[: len(content) // 2], _flipped(content, len(content) // 3), _flipped(content, 5000)):
        part.write_bytes(damaged)
        with pytest.raises(DamagedCheckpointError, match=r": __0_0.distcp holds other bytes.* an earlier checkpoint"):
            load(state, folder)
        assert (
            damage(CheckpointFiles(folder)) == f"{folder}: is damaged: __0_0.distcp holds other bytes than were written"
        )
    seen = set()
    for place in range(0, len(content), len(content) // 60):  # not all of them are anything's
        part.write_bytes(_flipped(content, place))
        try:
            load(state, folder)
            refused = False
        except DamagedCheckpointError:
            refused = True
        assert (damage(CheckpointFiles(folder)) is not None) == refused, place
        seen.add(refused)
    assert True in seen
    part.unlink()
    assert "is damaged" in str(damage(CheckpointFiles(folder)))
    with pytest.raises(DamagedCheckpointError, match=r"is damaged: __0_0.distcp is missing"):
        load(state, folder)
    index = folder / ".metadata"
    # A place in a part, which is still a number.
    whole = index.read_bytes()
    flips = [_flipped(whole, place) for place in range(len(whole) // 2, len(whole) // 2 + 200)]
    for damaged in flips:
        index.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_index(CheckpointFiles(folder))
    index.write_bytes(whole)
    (folder / ".metadata.sha256").unlink()  # as earlier versions wrote it
    # As Python 3.13 names the path that it was written to.
    written = pickle.dumps(pickle.loads(index.read_bytes()), protocol=2)
    assert b"cpathlib\n" in written
    index.write_bytes(written.replace(b"cpathlib\n", b"cpathlib._local\n"))
    assert read_index(CheckpointFiles(folder)).storage_data
    for damaged in (index.read_bytes()[:50], b"", bytes(50)):
        index.write_bytes(damaged)
        with pytest.raises(DamagedCheckpointError, match=r"is damaged: .metadata cannot be read"):
            load(state, folder)
    with pytest.raises(DamagedCheckpointError, match=r"nowhere: is damaged or no checkpoint: it has no .metadata"):
        load(state, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is no whole checkpoint"):
        describe(tmp_path / "nowhere")


def test_a_checkpoint_that_cannot_be_written_is_named(shapes_beton: Path, small_disk: Path) -> None:
    _, state = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}, model={"encoder": "resnet50"}))
    with pytest.raises(CheckpointError, match=r"cannot be written .*is the disk full"):
        write(snapshot(state), small_disk / "checkpoint", {})


def test_what_a_contrast_estimated_is_kept(shapes_beton: Path, tmp_path: Path) -> None:
    settings = small_settings(shapes_beton, method={"contrast": "nce"})
    state, fresh = (build_state(settings, 96, CPU) for _ in range(2))
    estimated = {name: tensor.fill_(3) for name, tensor in state.metaug.model.objective.state_dict().items()}
    assert estimated
    write(snapshot(state), tmp_path / "checkpoint", {})
    load(fresh, tmp_path / "checkpoint")
    for name, tensor in fresh.metaug.model.objective.state_dict().items():
        assert torch.equal(tensor, estimated[name]), name
