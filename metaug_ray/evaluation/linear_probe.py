"""The linear probe: a linear classifier on frozen representations (paper, appendix B.1)."""

from collections.abc import Generator
from dataclasses import dataclass
from itertools import chain, count, islice

import torch
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.config.evaluate import ProbeSettings
from metaug_ray.evaluation.probe_rows import InMemory, Rows

LEAST_IMAGES = 10
"""Labelled images that a probe needs: one to choose settings by, and others to learn from."""


@dataclass(frozen=True)
class Probe:
    """A trained linear classifier.

    Attributes:
        weight, bias: float32 [C, H] and [C], for representations as they are.
        learning_rate, weight_decay: chosen on held-out representations.
        held_out_accuracy: there, of this choice.
    """

    weight: Tensor
    bias: Tensor
    learning_rate: float
    weight_decay: float
    held_out_accuracy: float

    def logits(self, representations: Tensor) -> Tensor:
        """[B, H] to [B, C]."""
        return F.linear(representations, self.weight, self.bias)


def train_probe(representations: Tensor, labels: Tensor, classes: int, settings: ProbeSettings, seed: int) -> Probe:
    """:func:`train_probe_on` of representations float32 [N, H] and labels int64 [N], from 0 on, on any device."""
    return train_probe_on(InMemory(representations, labels), classes, settings, seed)


def train_probe_on(rows: Rows, classes: int, settings: ProbeSettings, seed: int) -> Probe:
    """:func:`probe_training` to its end."""
    training = probe_training(rows, classes, settings, seed)
    while True:
        try:
            next(training)
        except StopIteration as end:
            probe: Probe = end.value
            return probe


def probe_training(rows: Rows, classes: int, settings: ProbeSettings, seed: int) -> Generator[None, None, Probe]:
    """Train classifiers with all learning rates and weight decays side by side, and the best one again on everything.

    The sweep sees nine tenths of the representations, and is judged on the rest. Every classifier sees the
    same batches: their weights are one matrix, so that the sweep reads the representations once.

    Args:
        rows: to learn from.
        classes: C.
        settings: of the probe.
        seed: of the order and of what is held out.

    Yields:
        After each of :func:`probe_steps`.

    Raises:
        ValueError: fewer than ten representations.
    """
    images, device = len(rows.labels), rows.labels.device
    if images < LEAST_IMAGES:
        raise ValueError(f"the probe needs at least ten labelled images, and has {images}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(images, generator=generator).to(device)
    held_out, rest = order[: _held_out(images)], order[_held_out(images) :]
    rates = [(rate, decay) for rate in settings.learning_rates for decay in settings.weight_decays]
    mean, scale = _standardisation(rows, rest)
    weights, biases = yield from _train(rows, rest, classes, rates, settings, generator, mean, scale)
    right = torch.zeros(len(rates), dtype=torch.int64, device=device)
    for representations, labels in rows.each(held_out):
        features = (representations - mean) * scale
        logits = torch.einsum("nh,gch->gnc", features, weights) + biases[:, None]
        right += (logits.argmax(2) == labels).sum(1)
    best = int(right.argmax())
    mean, scale = _standardisation(rows, order)
    weights, biases = yield from _train(rows, order, classes, [rates[best]], settings, generator, mean, scale)
    weight = weights[0] * scale
    return Probe(weight, biases[0] - weight @ mean, *rates[best], int(right[best]) / len(held_out))


def probe_steps(images: int, settings: ProbeSettings) -> int:
    """How many steps a probe of so many images takes, in the sweep and on everything."""
    return _steps(images - _held_out(images), settings) + _steps(images, settings)


def _held_out(images: int) -> int:
    return images // 10


def _steps(images: int, settings: ProbeSettings) -> int:
    return max(settings.epochs * (images // _batch(images, settings)), settings.least_steps)


def _batch(images: int, settings: ProbeSettings) -> int:
    return min(settings.batch_size, images)


def _standardisation(rows: Rows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation [H]; what never changes stays zero."""
    deviation, mean = rows.std_mean(chosen)
    return mean, torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)


def _train(
    rows: Rows,
    chosen: Tensor,
    classes: int,
    rates: list[tuple[float, float]],
    settings: ProbeSettings,
    generator: torch.Generator,
    mean: Tensor,
    scale: Tensor,
) -> Generator[None, None, tuple[Tensor, Tensor]]:
    """Adam with decoupled weight decay and a cosine schedule, for G settings: weights [G, C, H] and biases [G, C]."""
    batch, steps = _batch(len(chosen), settings), _steps(len(chosen), settings)
    device = mean.device
    weights = [torch.zeros(classes, rows.size, device=device, requires_grad=True) for _ in rates]
    biases = [torch.zeros(classes, device=device, requires_grad=True) for _ in rates]
    optimizer = torch.optim.AdamW(
        [{"params": [w], "lr": rate, "weight_decay": decay} for w, (rate, decay) in zip(weights, rates, strict=True)]
        + [{"params": [b], "lr": rate, "weight_decay": 0.0} for b, (rate, _) in zip(biases, rates, strict=True)]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = chain.from_iterable(rows.epoch(chosen, batch, generator) for _ in count())
    for representations, labels in islice(batches, steps):
        features = (representations - mean) * scale
        logits = F.linear(features, torch.cat(weights), torch.cat(biases)).view(batch, len(rates), classes)
        # A sum over the settings: each has its own mean loss, and its own gradient.
        loss = F.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, len(rates)), reduction="sum") / batch
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield
    return torch.stack([w.detach() for w in weights]), torch.stack([b.detach() for b in biases])
