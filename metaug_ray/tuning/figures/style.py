"""Colours and marks of a sweep's figures."""

from typing import Any, Final, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from metaug_ray.tuning.scales import Scale, value_text

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito, which all eyes tell apart: one for each group."""
MARKERS: Final = "osD^vPX"
"""The same, in print without colours."""
COLOURS: Final = "cividis"
"""Map of colours for values, which all eyes tell apart."""
BEST: Final = "#D55E00"
"""Frames the best point."""


def of_group(number: int) -> dict[str, Any]:
    """Colour and mark of a group, by its number."""
    return {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}


def label_axis(axes: Axes, letter: Literal["x", "y"], scale: Scale, name: str) -> None:
    """Name an axis; its ticks are the parameter's values where those are few. No mathematics in them, as within
    `shown` none is set."""
    axis = axes.xaxis if letter == "x" else axes.yaxis
    if scale.log:
        axes.set(**{f"{letter}scale": "log"})
    if scale.listed is not None:
        axis.set_ticks([scale.number(value) for value in scale.listed], [value_text(value) for value in scale.listed])
        axis.set_tick_params(labelsize=8)
        axis.set_tick_params(which="minor", length=0)
    if scale.log:
        axis.set_minor_formatter(NullFormatter())
        if scale.listed is None:
            axis.set_major_formatter(FuncFormatter(lambda value, _: value_text(value)))
            # The whole range, as between two powers of ten there may be none, and an axis without a number.
            low, high = scale.ends
            axes.set(**{f"{letter}lim": (low / (high / low) ** 0.05, high * (high / low) ** 0.05)})
            if high / low < 10:
                axis.set_ticks([low, (low * high) ** 0.5, high])
    axes.set(**{f"{letter}label": name})
