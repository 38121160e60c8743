"""The values of a parameter as places on an axis, and as text."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from metaug_ray.config.sweep import Parameter, SweepSettings

_MOST_LISTED: Final = 12
"""Whole numbers that are shown one by one; a longer range is shown as a range."""
_DECADES: Final = 30.0
"""Ratio of the greatest to the least of several values from which on their axis is logarithmic."""


def value_key(value: Any) -> str:
    """A value of a setting as text that no other value has."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def value_text(value: Any) -> str:
    """A value of a setting for people: numbers have three digits, and 0.00001 is 1e-5."""
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            digits, _, power = f"{value:.2e}".partition("e")
            return f"{float(digits):g}e{int(power)}"
        return f"{value:.3g}".replace("e+0", "e")
    return value_key(value)


def measured(value: float) -> str:
    """A value of the metric, with three digits: 0.500, 23.4, 123; empty where there is none."""
    return "" if math.isnan(value) else f"{value:#.3g}".rstrip(".")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Dotted names by the shortest of their ends that no other one has: `method.delta` is `delta`."""
    short = {}
    for name in names:
        parts = name.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        short[name] = next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1), name)
    return short


class Scale:
    """Where the values of one parameter are, from 0 (the least) to 1.

    Args:
        parameter: its values.
    """

    def __init__(self, parameter: Parameter) -> None:
        values = parameter.values
        self.numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        """Whether all values are numbers."""
        self.listed: tuple[Any, ...] | None = _listed(parameter, self.numeric)
        """The values one by one, numbers in their order; None for a range."""
        self.log = self.numeric and (
            parameter.log_uniform is not None
            or (not parameter.is_range and len(values) > 2 and min(values) > 0 and max(values) / min(values) > _DECADES)
        )
        """Whether the axis is logarithmic."""
        self.ends: tuple[float, float] = (min(values), max(values)) if self.numeric else (0.0, len(values) - 1.0)
        """The least and the greatest value; of what is no number, its place in the list."""

    def number(self, value: Any) -> float:
        """A number stands for itself, and any other value for its place in the list.

        Raises:
            ValueError: the parameter has no such value.
        """
        if self.numeric:
            return float(value)
        return float([value_key(known) for known in self.listed or ()].index(value_key(value)))

    def place(self, value: Any) -> float:
        """From 0 to 1; the middle where the parameter has one value alone."""
        low, high, at = (math.log(n) if self.log else n for n in (*self.ends, self.number(value)))
        return 0.5 if high == low else (at - low) / (high - low)

    def number_at(self, value: Any, shift: float) -> float:
        """The number of a value, moved by a share of the axis."""
        low, high = self.ends
        return self.number(value) * (high / low) ** shift if self.log else self.number(value) + shift * (high - low)

    def ticks(self, most: int = 9) -> list[tuple[float, str]]:
        """Places and texts of some of the values, evenly chosen."""
        if self.listed is not None:
            values: Sequence[Any] = self.listed
        elif self.log:
            low, high = (math.log10(end) for end in self.ends)
            powers = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
            values = powers if len(powers) > 1 else self.ends
        else:
            low, high = self.ends
            values = [low + (high - low) * i / 4 for i in range(5)]
        chosen = values[:: -(-len(values) // most)]
        return [(self.place(value), value_text(value)) for value in chosen]


def scales(settings: SweepSettings) -> Mapping[str, Scale]:
    """One for each parameter that is searched, by its dotted name."""
    return {name: Scale(parameter) for name, parameter in settings.space.items()}


def _listed(parameter: Parameter, numeric: bool) -> tuple[Any, ...] | None:
    if parameter.integer is not None:
        low, high = parameter.integer
        return tuple(range(low, high + 1)) if high - low < _MOST_LISTED else None
    if parameter.is_range:
        return None
    return tuple(sorted(parameter.values)) if numeric else parameter.values
