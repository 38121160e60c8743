"""A run that begins with the weights of another one (`fork`): a warm start, from step 0."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from metaug_ray.config.base import explain
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.recorded import fixed_settings, read_fixed
from metaug_ray.data.manifest import Manifest
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.resume import differences

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from metaug_ray.training.state import TrainingState


@dataclass(frozen=True)
class WarmStart:
    """Where a warm start finds its weights, and which of them fit.

    Attributes:
        storage, name, checkpoint: of the other run.
        targets: whether its bank's rows are of the same data, or its support set of the same size.
        predictors: whether it has prediction heads, if any are wanted.
        generators: whether its generators, if any are wanted, are of the same size.
    """

    storage: str
    name: str
    checkpoint: str
    targets: bool
    predictors: bool
    generators: bool

    def load(self, state: "TrainingState", group: "ProcessGroup | None" = None) -> str:
        """Take over what fits; returns what was done, in words. A collective call.

        Args:
            state: of this rank.
            group: a group of all ranks that can communicate CPU tensors; None for the default one.

        Raises:
            CheckpointError: the checkpoint cannot be read, or is of other networks.
            StorageError: the storage cannot be reached.
        """
        from metaug_ray.runtime.checkpoint import load_part

        networks = state.networks()
        fits = {"bank": self.targets, "support_set": self.targets, "generators": self.generators}
        new = [part for part, same in fits.items() if part in networks and not same]
        taken = {part: value for part, value in networks.items() if part not in new}
        if not self.predictors:
            taken["encoder"] = {name: value for name, value in taken["encoder"].items() if ".predictor." not in name}
            new.append("prediction heads")
        load_part(taken, RunFolder(self.storage, self.name).files(self.checkpoint), group)
        anew = f", but new {' and '.join(new)}" if new else ""
        return f"begins with the weights of {self.name}, {self.checkpoint}{anew}"


def find_warm_start(settings: PretrainSettings, name: str, manifest: Manifest) -> WarmStart:
    """The last checkpoint of another run, for a run with these settings and data.

    Raises:
        TrainingError: there is no such run, it has no checkpoint, or its networks are others.
    """
    other = RunFolder(settings.storage, name)
    record, names = other.record, other.checkpoints()
    if record is None or not names:
        raise TrainingError(f"fork: {other.location} is no run with a checkpoint; give the name of one")
    try:
        recorded = read_fixed(record["fixed"])
    except ValidationError as error:
        raise TrainingError(f"fork: {name!r} was made by another version of metaug_ray ({explain(error)})") from error
    old, new = dict(recorded["model"]), dict(fixed_settings(settings)["model"])
    # Only neighbours have prediction heads, and heads of another size are new ones.
    sizes_of_heads = {settings_of.pop("prediction_hidden_size") for settings_of in (old, new)}
    if changed := differences(old, new, "model"):
        listed = "\n".join(changed)
        raise TrainingError(
            f"fork: the networks of {name!r} are others:\n{listed}\n"
            "Keep these as they were, or begin without its weights"
        )
    method, targets = recorded["method"], settings.method.targets
    sizes = ("generator_hidden_size", "generator_per")
    same_generators = method["generators"] and all(method[size] == getattr(settings.method, size) for size in sizes)
    same_data = record["data"]["sha256"] == manifest.sha256
    same_size = recorded.get("support", {}).get("size") == settings.support.size
    return WarmStart(
        settings.storage,
        name,
        names[-1],
        targets=method["targets"] == targets and (same_data if targets == "bank" else same_size),
        predictors=targets != "neighbours" or (method["targets"] == targets and len(sizes_of_heads) == 1),
        generators=same_generators or not settings.method.generators,
    )
