"""Settings of `jobs/tune_hyperparameters.py`: what is searched, how, and what is compared in the end."""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import yaml
from pydantic import Field, model_validator

from metaug_ray.config.base import Location, Positive, Settings
from metaug_ray.config.pretrain import PretrainSettings

_KINDS: Final = ("choice", "grid", "uniform", "log_uniform", "integer")


class Parameter(Settings):
    """The values that one setting takes: one of these kinds."""

    choice: tuple[Any, ...] | None = None
    """values, one of which is drawn"""
    grid: tuple[Any, ...] | None = None
    """values, each of which is tried, with each value of every other grid"""
    uniform: tuple[float, float] | None = None
    """least and greatest number"""
    log_uniform: tuple[Positive, Positive] | None = None
    """the same, drawn evenly by its logarithm"""
    integer: tuple[int, int] | None = None
    """least and greatest whole number"""
    when: Mapping[str, tuple[Any, ...]] = {}
    """values of other settings, by dotted name, with which alone this one counts"""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        inner = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if inner and isinstance(given[inner[0]], dict):
            raise ValueError(f"{inner[0]}: names are dotted here, as in `method.delta: {{choice: [0.1, 0.01]}}`")
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'no kind'} given; expected one of {', '.join(_KINDS)}")
        values = getattr(self, given[0])
        if not self.is_range and (not values or len({repr(value) for value in values}) < len(values)):
            raise ValueError(f"{given[0]}: got {list(values)}; expected values, each of them once")
        if self.is_range and values[0] >= values[1]:
            raise ValueError(f"{given[0]}: got {list(values)}, an empty range; expected the lesser number first")
        return self

    @property
    def is_range(self) -> bool:
        """Whether its values are those between two ends."""
        return self.choice is None and self.grid is None

    @property
    def values(self) -> tuple[Any, ...]:
        """All its values, or the two ends of its range."""
        values: tuple[Any, ...] = next(filter(None, (getattr(self, kind) for kind in _KINDS)))
        return values


class AshaSettings(Settings):
    """Runs that are behind are stopped early (asynchronous successive halving, Li et al. 2020)."""

    first: int = Field(1, ge=1)
    """epochs that every run trains; the runs are compared there, and after `factor` times as many epochs, and so on"""
    factor: int = Field(3, ge=2)
    """of so many runs at such an epoch one goes on"""


class SearchSettings(Settings):
    """How points of the space are drawn, and their runs."""

    kind: Literal["random", "tpe"] = "tpe"
    """how values are drawn that are no grid's: at random, or where earlier points were good (Optuna's TPE)"""
    trials: int = Field(16, ge=1, le=10_000)
    """points that are drawn for each group and each combination of grid values; may grow when a sweep is resumed"""
    seeds: int = Field(1, ge=1, le=100)
    """runs of each point, from the seed of the run on; their mean counts"""
    seed: int = Field(0, ge=0, lt=2**31)
    """random seed of the draws"""
    asha: AshaSettings | None = None
    """stop early what is behind; default: no run is stopped"""
    concurrency: int | None = Field(None, ge=1)
    """runs at a time; default as many as the cluster has room for"""
    hours: Positive | None = None
    """hours after which the sweep ends with what it has; over all its starts"""
    gpu_hours: Positive | None = None
    """the same, of the GPUs of all its runs together"""
    retry_failed: bool = False
    """try again what failed at an earlier start of the sweep"""


class ComparisonSettings(Settings):
    """The best point of each group on new seeds, judged by images whose labels decided nothing."""

    judge: Location
    """labelled beton that judges; not the one that the search goes by (health.knn.beton)"""
    seen: Location | None = None
    """labelled beton that is reported beside it, and called seen, such as a test set that earlier results chose by"""
    train: Location | None = None
    """labelled beton that classifiers learn from; default: the training beton"""
    seeds: int = Field(3, ge=1, le=100)
    """runs of each group, with seeds that the search had not"""


class RefitSettings(Settings):
    """The best point of each group, trained again for longer."""

    epochs: int = Field(ge=1)
    """passes over the data"""


class SweepSettings(Settings):
    """A search over the settings of the main job, and the comparison that it may end in."""

    run: PretrainSettings
    """settings of all runs, where the space and the groups say nothing else; `name` is the sweep's, and `register_as`
    the best encoder's"""
    space: Mapping[str, Parameter] = {}
    """parameters by the dotted names of settings, such as method.delta"""
    groups: Mapping[str, Mapping[str, Any]] = {}
    """variants that are each searched by themselves, and compared: settings by dotted name"""
    search: SearchSettings = SearchSettings()
    """how the space is searched"""
    compare: ComparisonSettings | None = None
    """what is compared in the end; default: nothing"""
    refit: RefitSettings | None = None
    """train the best again; default: its own run is registered"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        every = self.run.health.knn.every
        if not every:
            raise ValueError("health.knn.every: 0 measures nothing that a sweep could go by; set it to 1")
        for rung in self.rungs():
            if rung % every:
                raise ValueError(
                    f"search.asha: runs are compared after epoch {rung}, but health.knn.every is {every}; set it to a "
                    "number that divides it, such as 1"
                )
        asha, epochs = self.search.asha, self.run.training.epochs
        if asha is not None and asha.first >= epochs:
            raise ValueError(
                f"search.asha.first: {asha.first} epochs, but a run has {epochs}, so none would be stopped early; "
                "set it lower, or leave search.asha out"
            )
        if self.run.fork is not None:
            raise ValueError(f"fork: a sweep's runs begin anew (got {self.run.fork!r}); leave it out")
        return self

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """The groups; where there are none, one without a name that fixes nothing."""
        return self.groups or {"": {}}

    def rungs(self) -> tuple[int, ...]:
        """Epochs after which runs are compared, before the last; none without `search.asha`."""
        asha, epochs = self.search.asha, self.run.training.epochs
        if asha is None:
            return ()
        count = math.ceil(math.log(max(1.0, epochs / asha.first), asha.factor)) + 1
        return tuple(epoch for epoch in (asha.first * asha.factor**n for n in range(count)) if epoch < epochs)

    def to_yaml(self) -> str:
        """All settings, as a file that `--sweep` takes."""
        settings = self.run.model_dump(mode="json") | self.model_dump(mode="json", exclude={"run", "space"})
        settings["space"] = self.model_dump(mode="json", include={"space"}, exclude_unset=True).get("space", {})
        text: str = yaml.safe_dump(settings, sort_keys=False)
        return text
