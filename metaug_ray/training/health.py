"""What tells whether a run is well: averages over a window of steps, over all ranks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.method import distributed
from metaug_ray.method.algorithm import StepOutcome
from metaug_ray.method.margins import injected_margins
from metaug_ray.method.model import Model
from metaug_ray.training.progress_line import SPREAD

HISTOGRAM_BINS = 100
"""Bins of the similarity histograms over [0, 1]."""
_NOTHING: Final = 1e-3


def feature_spread(features: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """How far unit features [B, D] of all ranks spread: sqrt(D) times their mean standard deviation per dimension, a
    scalar. A collective call.

    1 for features that are even over the sphere, 0 for collapsed ones (Chen and He 2021, figure 2).
    """
    mean = features.mean(0)
    distributed.average([mean], group)
    variance = (features - mean).square().mean(0)
    distributed.average([variance], group)
    return variance.sqrt().mean() * float(features.shape[1] ** 0.5)


def empty_views(images: Sequence[Tensor], names: Sequence[str], group: dist.ProcessGroup | None = None) -> list[str]:
    """The views of a minibatch that hold nothing: the same value in all pixels of all images, over all ranks.

    Grey pictures have no colours, but for rounding: their `ab` are about 1e-5, where one level of one channel makes
    1e-2.

    Args:
        images: [B, C_v, H, W] by view.
        names: of the views.
        group: ranks that train together.
    """
    ends = [torch.stack([view.amax((0, 2, 3)), -view.amin((0, 2, 3))]) for view in images]
    widths = []
    for extremes in ends:
        distributed.all_reduce(extremes, dist.ReduceOp.MAX, group)
        widths.append(float(extremes.sum(0).max()))
    return [name for name, width in zip(names, widths, strict=True) if width < _NOTHING]


@dataclass
class Window:
    """The steps since the last report. Its sums stay on the device: nothing waits for them until :meth:`report`."""

    device: torch.device
    group: dist.ProcessGroup | None = None

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.steps = self.images = 0
        self.waited = 0.0
        self._applied = 0
        self._began = time.perf_counter()
        self._losses: Tensor | None = None

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent in training."""
        self._began += seconds

    def add(self, outcome: StepOutcome, images: int, waited: float) -> None:
        """One step, of `images` images on this rank, `waited` seconds of it for data."""
        self.steps += 1
        self.images += images
        self.waited += waited
        if outcome.applied:
            losses = torch.stack(list(outcome.losses))
            self._losses = losses if self._losses is None else self._losses + losses
            self._applied += 1

    def report(self, outcome: StepOutcome, model: Model) -> dict[str, float]:
        """Metrics of the window and of its last step, over all ranks; starts the next window.

        A collective call, like the training step.

        Returns:
            Loss terms (mean of the window), margins, similarities, feature spread, gradient norms (last step),
            images/s, share of the time spent waiting for data, GiB of memory. Same keys on every rank.
        """
        seconds = time.perf_counter() - self._began
        ranks = distributed.world_size(self.group)
        metrics: dict[str, Tensor] = {}
        losses = self._losses / self._applied if self._losses is not None else torch.full((3,), torch.nan)
        metrics |= dict(zip(("loss/total", "loss/original", "loss/augmented"), losses, strict=True))
        least: dict[str, Tensor] = {}
        for name, similarities in (("", outcome.original), ("augmented_", outcome.augmented)):
            for kind, d in similarities._asdict().items() if similarities is not None else ():
                metrics[f"similarity/{name}{kind}_mean"] = d.mean()
                least[f"similarity/{name}{kind}_min"] = d.min()
                least[f"similarity/{name}{kind}_max"] = -d.max()
        spreads = torch.stack([feature_spread(view, self.group) for view in outcome.features])
        metrics[SPREAD] = spreads.mean()
        views = model.eager_encoder.views
        metrics |= {f"{SPREAD}_{view}": spread for view, spread in zip(views, spreads, strict=True)}
        metrics["data/wait_fraction"] = torch.tensor(self.waited / seconds)
        values = _reduced(metrics, "mean", self.device, self.group)
        extremes = _reduced(least, "min", self.device, self.group)
        values |= {name: -value if name.endswith("_max") else value for name, value in extremes.items()}
        sigma_plus, sigma_minus = injected_margins(*outcome.original, model.objective.margin, group=self.group)
        values |= {"margin/sigma_plus": float(sigma_plus), "margin/sigma_minus": float(sigma_minus)}
        if outcome.augmented is not None:
            r_sigma = model.objective.regularization(outcome.original, outcome.augmented, group=self.group)
            values |= _reduced({"loss/regularization": r_sigma}, "mean", self.device, self.group)
        values |= {f"gradient_norm/{name}": float(norm) for name, norm in outcome.norms._asdict().items()}
        values["speed/images_per_second"] = self.images * ranks / seconds
        values["speed/images_per_second_per_worker"] = self.images / seconds
        values["speed/seconds_per_step"] = seconds / self.steps
        values |= _reduced(_memory(self.device), "max", self.device, self.group)
        self._start()
        return values


def similarity_histograms(outcome: StepOutcome, group: dist.ProcessGroup | None = None) -> dict[str, list[float]]:
    """Densities of the similarities of a minibatch over [0, 1] (the paper's figure 2), over all ranks.

    Returns:
        `HISTOGRAM_BINS` shares that sum to 1 for `positives`, `negatives` and, with generators, `augmented_positives`
        and `augmented_negatives`.
    """
    histograms = {}
    for name, similarities in (("", outcome.original), ("augmented_", outcome.augmented)):
        for kind, d in similarities._asdict().items() if similarities is not None else ():
            # Rounding may take a similarity past its range.
            counts = torch.histc(d.float().clamp(0, 1), HISTOGRAM_BINS, 0.0, 1.0)
            distributed.all_reduce(counts, dist.ReduceOp.SUM, group)
            histograms[name + kind] = (counts / counts.sum()).tolist()
    return histograms


def _memory(device: torch.device) -> dict[str, Tensor]:
    gib = 2.0**30
    memory = {"memory/worker_gib": torch.tensor(psutil.Process().memory_info().rss / gib)}
    if device.type == "cuda":
        memory["memory/gpu_gib"] = torch.tensor(torch.cuda.max_memory_reserved(device) / gib)
    return memory


def _reduced(
    values: dict[str, Tensor], how: str, device: torch.device, group: dist.ProcessGroup | None
) -> dict[str, float]:
    """Scalars over all ranks: their mean, least or greatest."""
    if not values:
        return {}
    together = torch.stack([value.detach().to(device, torch.float64) for value in values.values()])
    operation = {"mean": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}[how]
    distributed.all_reduce(together, operation, group)
    if how == "mean":
        together /= distributed.world_size(group)
    return dict(zip(values, together.tolist(), strict=True))
