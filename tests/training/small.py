"""A run that takes seconds, and the same run without Ray."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from metaug_ray.config import PretrainSettings
from metaug_ray.method import distributed
from metaug_ray.runtime.checkpoint import load, snapshot, write
from metaug_ray.runtime.run_folder import checkpoint_name
from metaug_ray.training.beton_batches import open_batches
from metaug_ray.training.loop import train
from metaug_ray.training.online_evaluation import open_evaluation
from metaug_ray.training.state import TrainingState, build_state


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return below | {
        k: merged(below[k], v) if isinstance(v, dict) and isinstance(below.get(k), dict) else v
        for k, v in above.items()
    }


def small_settings(beton: Path, **changes: Any) -> PretrainSettings:
    """96 images, 6 steps an epoch, 3 epochs, MetAug with a meta step every third step; every step is logged."""
    settings = {
        "name": "small",
        "data": {"beton": str(beton), "image_size": 32, "augmentation": {"crop_scale": (0.2, 1.0)}},
        "model": {"views": ("l", "ab"), "encoder": "resnet18", "width": 0.5, "feature_size": 16},
        "method": {
            "generator_hidden_size": 32,
            "delta": 0.1,
            "alpha": 0.1,
            "meta": {"every": 3, "virtual_learning_rate": 0.02},
        },
        "bank": {"negatives": 24},
        "training": {
            "epochs": 3,
            "batch_size": 16,
            "precision": "float32",
            "schedule": {"kind": "cosine", "warmup_epochs": 1},
            "head": {"kind": "adam", "learning_rate": 1e-3},
        },
        "compute": {"workers": 2, "cpus_per_worker": 1, "device": "cpu"},
        "checkpoint": {"every_steps": 7, "every_minutes": None, "keep": 3},
        "health": {"log_every": 1, "knn": {"every": 0, "references": 64, "queries": 32}},
    }
    return PretrainSettings.model_validate(merged(settings, changes))


class Recorder:
    """An observer that keeps what it is told, and writes checkpoints at once."""

    def __init__(self, folder: Path | None, group: dist.ProcessGroup | None, stop_at: int | None) -> None:
        self.folder, self.group, self.stop_at = folder, group, stop_at
        self.seen: dict[int, dict[str, float]] = {}
        self.histogram_steps: list[int] = []
        self.saved_metrics: dict[int, dict[str, float]] = {}
        self.notes: list[str] = []

    @property
    def saved(self) -> list[int]:
        return list(self.saved_metrics)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.seen[step] = self.seen.get(step, {}) | values

    def histograms(self, step: int, values: dict[str, list[float]]) -> None:
        self.histogram_steps.append(step)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def save(self, state: TrainingState, metrics: dict[str, float]) -> None:
        self.saved_metrics[state.step] = metrics
        if self.folder is not None:
            copied = snapshot(state, self.group)
            write_together(copied, self.folder / checkpoint_name(state.step), self.group)
        if state.step == self.stop_at:
            raise KeyboardInterrupt


def write_together(copied: dict[str, Any], folder: Path, group: dist.ProcessGroup | None) -> None:
    """All ranks into one folder, as Ray merges theirs."""
    rank = distributed.rank()
    write(copied, folder / f"rank{rank}", {"step": 0}, group, rank=rank)
    for file in (folder / f"rank{rank}").iterdir():
        file.rename(folder / file.name)


def run_plain(
    rank: int,
    settings: PretrainSettings,
    folder: Path | None = None,
    start: Path | None = None,
    stop_at: int | None = None,
    change: Callable[[TrainingState], None] = lambda _: None,
) -> tuple[Recorder, TrainingState]:
    """The loop under plain PyTorch, on this rank: from a checkpoint, or until one."""
    device, world_size = torch.device("cpu"), distributed.world_size()
    group = dist.new_group(backend="gloo") if world_size > 1 else None
    beton = Path(settings.data.beton)
    batches = open_batches(settings, beton, cpus=1, device=device, rank=rank, world_size=world_size)
    state = build_state(settings, batches.samples, device)
    if start is not None:
        load(state, start)
    change(state)
    online = open_evaluation(settings, beton, cpus=1, device=device, rank=rank, world_size=world_size)
    evaluate = None if online is None else partial(online.measure, state.metaug.model)
    recorder = Recorder(folder, group, stop_at)
    with suppress(KeyboardInterrupt):
        train(settings, state, batches, recorder, device=device, evaluate=evaluate)
    return recorder, state


def plain_metrics(rank: int, *arguments: Any) -> dict[int, dict[str, float]]:
    """What :func:`run_plain` measured, for another process."""
    recorder, _ = run_plain(rank, *arguments)
    return recorder.seen


def tensors_of(checkpoint: Path, scratch: Path) -> dict[str, Any]:
    """All tensors of a checkpoint, whole, by name; without the time that it took."""
    dcp_to_torch_save(checkpoint, scratch)
    flat: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{name}/{key}")
        else:
            flat[name] = value

    walk(torch.load(scratch, weights_only=False), "")
    del flat["/progress/seconds"]
    return flat


def losses(metrics: dict[int, dict[str, float]]) -> dict[int, float]:
    return {step: values["loss/total"] for step, values in metrics.items() if "loss/total" in values}


BANKS = ("/encoder/", "/generators/", "/bank/rows", "momentum_buffer", "exp_avg")


def check_same(ours: dict[str, Any], theirs: dict[str, Any], parts: Sequence[str] = BANKS) -> None:
    """Two checkpoints, by :func:`tensors_of`: weights, bank and optimisers, to float tolerance."""
    assert ours.keys() == theirs.keys()
    for part in parts:
        assert any(part in name for name in ours), part
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert ours[name] == value, name
