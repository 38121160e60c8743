"""Where to look next, what is not worth finishing, and which parameters mattered: functions of the points so far.

Each is told all points of one group and keeps nothing, so a sweep that is resumed goes on as it would have.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from metaug_ray.config.sweep import AshaSettings, Parameter, SearchSettings
from metaug_ray.tuning.points import Point, common_epoch
from metaug_ray.tuning.space import Space, Values

# It tells of each study that it makes, and here it makes one for each point.
optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw(
    search: SearchSettings,
    space: Space,
    group: str,
    points: Sequence[Point],
    cell: Values | None = None,
    attempt: int = 0,
) -> Values:
    """The next point of a group.

    The same points so far give the same next one: what a sweep draws does not depend on when it was interrupted.

    Args:
        search: kind and seed of the draws.
        space: of the group.
        group: its name, so that groups draw differently.
        points: of the group so far, those that still run included.
        cell: values of the grids.
        attempt: another one draws another point.
    """
    # A random state of its own for each point stands in for one that a checkpoint would have to keep.
    seed = _seed(search.seed, group, len(points), attempt)
    sampler: optuna.samplers.BaseSampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if search.kind == "random":
            sampler = optuna.samplers.RandomSampler(seed)
        else:
            # Points that still run count as bad ones, so that two at a time are not drawn beside each other.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True, group=True)
    trial = _study(space, points, sampler).ask()

    def choose(name: str, parameter: Parameter) -> Any:
        low, high = parameter.values[0], parameter.values[-1]
        if parameter.choice is not None:
            return parameter.choice[trial.suggest_categorical(name, range(len(parameter.choice)))]
        if parameter.integer is not None:
            return trial.suggest_int(name, low, high)
        return trial.suggest_float(name, low, high, log=parameter.log_uniform is not None)

    return space.point(choose, cell)


def importances(space: Space, points: Sequence[Point]) -> Mapping[str, float]:
    """Share of the variance of the values that each parameter explains, by functional ANOVA (Hutter et al. 2014).

    Values are those after the :func:`~metaug_ray.tuning.points.common_epoch`. Of parameters that some points have not,
    nothing is said; nor of few points, or where all values are the same.
    """
    epoch = common_epoch(points)
    if epoch is None:
        return {}
    values = {point.number: point.value_after(epoch) for point in points}
    known = [point for point in points if not math.isnan(values[point.number])]
    if len({values[point.number] for point in known}) < 2:
        return {}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.add_trials([_trial(space, point, TrialState.COMPLETE, value=values[point.number]) for point in known])
    found: dict[str, float] = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return found


def is_behind(asha: AshaSettings, rung: int, point: Point, points: Sequence[Point]) -> str | None:
    """Whether a point that just reached a rung shall be stopped there: why, in words, or None.

    Asynchronous successive halving (Li et al. 2020) in the form that stops: at each rung a point goes on if it is among
    the best 1 / factor of all points that reached this rung so far, of which one always is. A point reaches a rung when
    all its runs have; until then there is nothing to say.

    Args:
        asha: the factor.
        rung: epoch at which points are compared.
        point: of the group.
        points: all of the group.
    """
    value = point.value_after(rung)
    if math.isnan(value):
        return None
    others = [other for other in (other.value_after(rung) for other in points) if not math.isnan(other)]
    best = sorted(others, reverse=True)[: max(1, len(others) // asha.factor)]
    if value >= best[-1]:
        return None
    return f"behind after epoch {rung}: {value:.4g}, where the best {len(best)} of {len(others)} have {best[-1]:.4g}"


def _study(space: Space, points: Sequence[Point], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """What Optuna knows of the points."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for point in points:
        state = _state(point)
        study.add_trial(_trial(space, point, state, point.value if state == TrialState.COMPLETE else None))
    return study


def _state(point: Point) -> TrialState:
    states = {run.state for run in point.runs}
    if not math.isnan(point.value):
        return TrialState.COMPLETE
    if "failed" in states:
        return TrialState.FAIL
    return TrialState.PRUNED if "stopped" in states else TrialState.RUNNING


def _trial(space: Space, point: Point, state: TrialState, value: float | None) -> FrozenTrial:
    parameters = {name: space.parameters[name] for name in point.values if name in space.parameters}
    epochs = sorted({round(at) for run in point.runs for at, _ in run.series})
    by_epoch = {epoch: point.value_after(epoch) for epoch in epochs}
    return create_trial(
        state=state,
        value=value,
        params={
            name: point.values[name] if parameter.is_range else parameter.values.index(point.values[name])
            for name, parameter in parameters.items()
        },
        distributions={name: _distribution(parameter) for name, parameter in parameters.items()},
        intermediate_values={epoch: value for epoch, value in by_epoch.items() if not math.isnan(value)},
    )


def _distribution(parameter: Parameter) -> BaseDistribution:
    """By index where the values are listed: Optuna takes only some kinds of values."""
    if not parameter.is_range:
        return CategoricalDistribution(range(len(parameter.values)))
    low, high = parameter.values
    if parameter.integer is not None:
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=parameter.log_uniform is not None)


def _seed(*parts: object) -> int:
    """A seed for what these parts name; not `hash`, which differs from process to process."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:4])
