"""A finished run, as the main job leaves it, made without Ray."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.tracking import MlflowClient

from metaug_ray.config import PretrainSettings
from metaug_ray.config.recorded import fixed_settings
from metaug_ray.data.manifest import read_manifest
from metaug_ray.runtime.checkpoint import snapshot, write
from metaug_ray.runtime.run_folder import RunFolder, checkpoint_name
from metaug_ray.training.state import TrainingState, build_state
from tests.training.small import small_settings


@dataclass(frozen=True)
class FinishedRun:
    storage: str
    uri: str
    run_id: str
    settings: PretrainSettings
    state: TrainingState


def finish_run(beton: Path, folder: Path, step: int = 12, name: str = "small", **changes: Any) -> FinishedRun:
    """A run whose weights and batch-norm statistics are others than at its start, with one checkpoint."""
    uri = f"sqlite:///{folder}/mlflow.db"
    settings = small_settings(beton, name=name, tracking={"uri": uri}, storage=str(folder), **changes)
    manifest = read_manifest(beton)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("metaug")
    artifacts = (folder / "artifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment("metaug", artifact_location=artifacts)
    run_id = client.create_run(experiment, run_name=name).info.run_id
    state = build_state(settings, manifest.samples, torch.device("cpu"))
    state.step = step
    generator = torch.Generator().manual_seed(step)
    model = state.metaug.model
    for module in (model.eager_encoder, model.generators):
        for tensor in () if module is None else (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data *= 1 + 0.2 * torch.rand(tensor.shape, generator=generator)
    run = RunFolder(str(folder), name)
    run.make()
    record = {
        "id": name,
        "fork": None,
        "settings": settings.model_dump(mode="json"),
        "fixed": fixed_settings(settings),
        "data": {"beton": str(beton), "sha256": manifest.sha256, "samples": manifest.samples},
        "mlflow": {"uri": uri, "run_id": run_id},
    }
    write(snapshot(state), folder / name / checkpoint_name(step), record | {"step": step})
    run.write_record(record)
    listed = {"checkpoint_results": [{"checkpoint_dir_name": checkpoint_name(step), "metrics": {}}]}
    (folder / name / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    return FinishedRun(str(folder), uri, run_id, settings, state)
