"""Points of a search space: which settings they are, which there are, and whether the settings allow them.

Nothing here draws by a search algorithm or knows of Ray: the command line checks a space before anything starts.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

from pydantic import ValidationError

from metaug_ray.config.base import explain, setting_names
from metaug_ray.config.pretrain import RANKME, PretrainSettings
from metaug_ray.config.recorded import MAY_CHANGE, RENAMED
from metaug_ray.config.sweep import Parameter, SweepSettings
from metaug_ray.names import slug
from metaug_ray.runtime.words import counted

Values = dict[str, Any]
"""Values of settings by dotted name."""

_DRAWS: Final = 200
_LONGEST_NAME: Final = 100
_NOT_SEARCHED: Final = {"name", "seed", "data.beton", *MAY_CHANGE}


def with_values(settings: PretrainSettings, values: Mapping[str, Any]) -> PretrainSettings:
    """Settings with other values for some of them.

    Raises:
        pydantic.ValidationError: the settings do not allow them.
    """
    chosen = settings.model_dump(exclude_unset=True)
    for name, value in values.items():
        *parts, last = name.split(".")
        holder = chosen
        for part in parts:
            if not isinstance(holder.get(part), dict):
                holder[part] = {}
            holder = holder[part]
        holder[last] = value
    return PretrainSettings.model_validate(chosen)


def value_of(settings: PretrainSettings, name: str) -> Any:
    """A setting by its dotted name; None where the group that it stands in is."""
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


class Space:
    """The space of one group.

    Args:
        parameters: of the sweep, by dotted name.
        settings: of the group's runs, where no parameter says anything else.
    """

    def __init__(self, parameters: Mapping[str, Parameter], settings: PretrainSettings) -> None:
        self.settings = settings
        self.parameters = dict(_ordered(parameters))

    def point(self, choose: Callable[[str, Parameter], Any], cell: Values | None = None) -> Values:
        """A point: a value for each parameter whose condition holds.

        Args:
            choose: gives the value of a parameter that is drawn.
            cell: values of the grids.
        """
        values: Values = {}
        for name, parameter in self.parameters.items():
            if self._holds(parameter, values):
                values[name] = (cell or {})[name] if parameter.grid is not None else choose(name, parameter)
        return values

    def cells(self) -> list[Values]:
        """All combinations of grid values; one without values where there is no grid."""
        cells: list[Values] = [{}]
        for name, parameter in self.parameters.items():
            if parameter.grid is not None:
                cells = [
                    inner
                    for cell in cells
                    for inner in (
                        [cell | {name: value} for value in parameter.grid] if self._holds(parameter, cell) else [cell]
                    )
                ]
        return cells

    def cell_of(self, values: Mapping[str, Any]) -> Values:
        """The values of the grids of a point."""
        return {name: value for name, value in values.items() if self.parameters[name].grid is not None}

    def points_in(self, cell: Values) -> int | None:
        """At most how many different points there are beside these values of the grids; None where ranges have no
        end of them."""
        count = 1
        for parameter in self.parameters.values():
            if parameter.grid is not None or not self._may_hold(parameter, cell):
                continue
            if parameter.uniform is not None or parameter.log_uniform is not None:
                return None
            low, high = parameter.values[0], parameter.values[-1]
            count *= high - low + 1 if parameter.integer is not None else len(parameter.values)
        return count

    def _holds(self, parameter: Parameter, values: Values) -> bool:
        return all(
            (values[name] if name in values else value_of(self.settings, name)) in allowed
            for name, allowed in parameter.when.items()
        )

    def _may_hold(self, parameter: Parameter, cell: Values) -> bool:
        known = {name: allowed for name, allowed in parameter.when.items() if name in cell or not self._is_drawn(name)}
        return self._holds(parameter.model_copy(update={"when": known}), cell)

    def _is_drawn(self, name: str) -> bool:
        return name in self.parameters and self.parameters[name].grid is None


def spaces(settings: SweepSettings) -> dict[str, Space]:
    """The space of each group, by its name. What a group fixes is not searched in it."""
    return {
        group: Space(
            {name: parameter for name, parameter in settings.space.items() if name not in fixed},
            with_values(settings.run, fixed),
        )
        for group, fixed in settings.variants.items()
    }


def complaints(settings: SweepSettings) -> list[str]:
    """What is wrong with a sweep's space and groups: a line for each.

    Grids are tried entirely, ranges at their ends, and all of it at 200 seeded draws.
    """
    if not settings.space and not settings.groups:
        return [
            "space: nothing is searched; name parameters in the file of --sweep, such as jobs/sweeps/greek.yaml, or "
            "groups to compare"
        ]
    if found := list(_names(settings)):
        return found
    for name, fixed in settings.variants.items():
        try:
            with_values(settings.run, fixed)
        except ValidationError as error:
            found += [f"groups.{name}: {line}" for line in explain(error).splitlines()]
    if found:
        return found
    refused: dict[str, list[str]] = {}
    for group, space in spaces(settings).items():
        where = f" in group {group}" if group else ""
        for values in _tried(space):
            try:
                idle = with_values(space.settings, values).method.idle_parameters
            except ValidationError as error:
                said = explain(error).splitlines()
                refused.setdefault(said[0].partition(":")[0], []).append(f"{shown(values)}{where}: {' '.join(said)}")
                continue
            found += [
                f"space.{name}: it has no effect{where}, where method.contrast is "
                f"{values.get('method.contrast', space.settings.method.contrast)}; give it a condition, such as "
                f"when: {{method.contrast: [{name.split('.')[1]}]}}"
                for name in idle.keys() & values.keys()
            ]
    for points in refused.values():
        more = len(set(points)) - 1
        found.append(f"space: {points[0]}" + (f" (and {counted(more, 'point')} more like it)" if more else ""))
    return [*dict.fromkeys(found), *_lengths(settings)]


def shown(values: Mapping[str, Any]) -> str:
    """A point as people read it."""
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items()) or "no parameters"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tried(space: Space) -> Iterator[Values]:
    """The points that are tried before a sweep starts."""
    cells = space.cells()
    ends: tuple[Callable[[str, Parameter], Any], ...] = (lambda _, p: p.values[0], lambda _, p: p.values[-1])
    for cell, choose in itertools.product(cells, ends):
        yield space.point(choose, cell)
    for name, parameter in space.parameters.items():
        for value in parameter.choice or ():
            yield space.point(partial(_only, name, value), cells[0])
    draws = random.Random(0)
    for _ in range(_DRAWS):
        yield space.point(lambda _, parameter: drawn(parameter, draws), draws.choice(cells))


def _only(chosen: str, value: Any, name: str, parameter: Parameter) -> Any:
    """A value for one parameter, and for all others their first."""
    return value if name == chosen else parameter.values[0]


def drawn(parameter: Parameter, draws: random.Random) -> Any:
    """A value of a parameter that is no grid's, at random."""
    if parameter.choice is not None:
        return draws.choice(parameter.choice)
    low, high = parameter.values
    if parameter.integer is not None:
        return draws.randint(low, high)
    if parameter.log_uniform is not None:
        return math.exp(draws.uniform(math.log(low), math.log(high)))
    return draws.uniform(low, high)


def _names(settings: SweepSettings) -> Iterator[str]:
    """What is wrong with the names of settings."""
    there_are = {*setting_names(PretrainSettings)}
    named = [(f"space.{name}", name) for name in settings.space]
    for name, parameter in settings.space.items():
        named += [(f"space.{name}.when.{other}", other) for other in parameter.when]
    for group, fixed in settings.groups.items():
        named += [(f"groups.{group}.{name}", name) for name in fixed]
    for place, name in named:
        if name in RENAMED:
            yield f"{place}: is called {', '.join(RENAMED[name]) or 'nothing'} now"
        elif name not in there_are:
            close = get_close_matches(name, sorted(there_are), 1, 0.7)
            meant = f"; did you mean {close[0]}" if close else "; `imagenet_resnet50.py --help` lists all"
            yield f"{place}: there is no such setting{meant}"
        elif settings.run.health.best_metric == RANKME and ".when." not in place and name.startswith("model."):
            yield f"{place}: RankMe grows with the size of the networks, so it cannot choose among them; search by kNN"
        elif ".when." not in place and (name in _NOT_SEARCHED or name.partition(".")[0] in _NOT_SEARCHED):
            instead = "; search.seeds says how many seeds a point has" if name == "seed" else ""
            yield f"{place}: no result depends on it, or all runs share it, so it is not searched{instead}"
    for name, parameter in settings.space.items():
        drawn = [other for other in parameter.when if other in settings.space and settings.space[other].grid is None]
        if parameter.grid is not None and drawn:
            yield f"space.{name}: a grid cannot depend on {drawn[0]}, which is drawn; make one of them a choice or grid"
    try:
        dict(_ordered(settings.space))
    except ValueError as error:
        yield str(error)


def _lengths(settings: SweepSettings) -> Iterator[str]:
    """What is wrong with the names that runs will have."""
    slugs = [slug(group) for group in settings.groups]
    for group, name in zip(settings.groups, slugs, strict=True):
        if not name or slugs.count(name) > 1:
            others = [other for other in settings.groups if slug(other) == name and other != group]
            with_it = f", as {' and '.join(others)}" if others else ""
            yield f"groups.{group}: its runs would be called {name!r}{with_it}; give it letters or digits of its own"
    longest = max(map(len, slugs), default=0)
    room = _LONGEST_NAME - longest - len("--00000-s0000000000-refit")
    if len(settings.run.name) > room:
        yield f"name: {settings.run.name!r} has {len(settings.run.name)} letters; runs add to it, so use at most {room}"


def _ordered(parameters: Mapping[str, Parameter]) -> Iterator[tuple[str, Parameter]]:
    """Each parameter after those that its condition names.

    Raises:
        ValueError: two depend on each other.
    """
    left = dict(parameters)
    while left:
        ready = [name for name, parameter in left.items() if not parameter.when.keys() & (left.keys() - {name})]
        ready = [name for name in ready if name not in left[name].when]
        if not ready:
            raise ValueError(f"space: the conditions of {' and '.join(left)} go in a circle")
        for name in ready:
            yield name, left.pop(name)
