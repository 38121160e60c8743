"""Accuracies of one encoder: by classifier, part of the networks, views and share of the labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metaug_ray.evaluation.intervals import Interval, confidence_interval
from metaug_ray.runtime.words import counted

ALL = "all"
"""Stands for all views side by side."""


@dataclass(frozen=True)
class Result:
    """Accuracies of one classifier, one for each seed.

    Attributes:
        classifier: knn, linear (the probe) or augmented_linear (trained on augmented images).
        part: of the networks: representations, a stage, or augmented (z ++ a(z)).
        views: `ALL`, or the name of one.
        share: of the labels.
        top1, top5: shares of the test images, by seed; kNN has one and no top-5.
        choice: the settings chosen on held-out images, by seed.
        images: labelled ones that it learnt from; None in what earlier versions wrote.
    """

    classifier: str
    part: str
    views: str
    share: float
    top1: Sequence[float]
    top5: Sequence[float] = ()
    choice: Sequence[str] = ()
    images: int | None = None

    @property
    def name(self) -> str:
        """Prefix of its metrics: `linear`, `linear_10pct`, `linear/conv3`, `knn/ab`."""
        share = "" if self.share == 1 else f"_{100 * self.share:g}pct"
        part = "" if self.part == "representations" else f"/{self.part}"
        return f"{self.classifier}{share}{part}" + ("" if self.views == ALL else f"/{self.views}")

    def metrics(self) -> dict[str, float]:
        """Means and, for several seeds, half widths of 95 % intervals, by the names that MLflow has them under."""
        metrics: dict[str, float] = {}
        for kind, values in (("top1", self.top1), ("top5", self.top5)):
            if values:
                interval = confidence_interval(values)
                metrics[f"{self.name}/{kind}"] = interval.mean
                if len(values) > 1:
                    metrics[f"{self.name}/{kind}_interval"] = interval.half_width
        return metrics

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"name": self.name}


def table(results: Sequence[Result]) -> str:
    """Markdown, in per cent."""
    rows = []
    for result in results:
        images = "" if result.images is None else f" ({counted(result.images, 'image')})"
        cells = [result.classifier, result.part, result.views, f"{100 * result.share:g} %{images}"]
        cells += [percent(confidence_interval(values)) if values else "" for values in (result.top1, result.top5)]
        rows.append(cells)
    return markdown(["classifier", "of", "views", "labels", "top-1", "top-5"], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of cells that are."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]]) + "\n"


def in_a_cell(text: str) -> str:
    """A user's name as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def percent(interval: Interval) -> str:
    """A share as per cent, with its interval if it has one."""
    width = "" if interval.half_width != interval.half_width else f" ± {100 * interval.half_width:.1f}"
    return f"{100 * interval.mean:.1f}{width} %"
