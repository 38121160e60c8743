"""The linear probe: a linear classifier on frozen representations (paper, appendix B.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.config.evaluate import ProbeSettings

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
    """Train classifiers with all learning rates and weight decays side by side, and the best one again on everything.

    The sweep sees nine tenths of the representations, and is judged on the rest. Every classifier sees the
    same batches: their weights are one matrix, so that the sweep reads the representations once.

    Args:
        representations: float32 [N, H], on any device.
        labels: int64 [N], from 0 on.
        classes: C.
        settings: of the probe.
        seed: of the order and of what is held out.

    Raises:
        ValueError: fewer than ten representations.
    """
    if len(labels) < LEAST_IMAGES:
        raise ValueError(f"the probe needs at least ten labelled images, and has {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    held_out, rest = order[: len(order) // 10], order[len(order) // 10 :]
    rates = [(rate, decay) for rate in settings.learning_rates for decay in settings.weight_decays]
    mean, scale = _standardisation(representations[rest])
    weights, biases = _train(representations, labels, rest, classes, rates, settings, generator, mean, scale)
    features = (representations[held_out] - mean) * scale
    logits = torch.einsum("nh,gch->gnc", features, weights) + biases[:, None]
    accuracies = (logits.argmax(2) == labels[held_out]).float().mean(1)
    best = int(accuracies.argmax())
    mean, scale = _standardisation(representations)
    weights, biases = _train(representations, labels, order, classes, [rates[best]], settings, generator, mean, scale)
    weight = weights[0] * scale
    return Probe(weight, biases[0] - weight @ mean, *rates[best], float(accuracies[best]))


def _standardisation(representations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation [H]; what never changes stays zero."""
    deviation, mean = torch.std_mean(representations, 0, correction=0)
    return mean, torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)


def _train(
    representations: Tensor,
    labels: Tensor,
    chosen: Tensor,
    classes: int,
    rates: list[tuple[float, float]],
    settings: ProbeSettings,
    generator: torch.Generator,
    mean: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Adam with decoupled weight decay and a cosine schedule, for G settings: weights [G, C, H] and biases [G, C]."""
    batch = min(settings.batch_size, len(chosen))
    per_epoch = len(chosen) // batch
    steps = max(settings.epochs * per_epoch, settings.least_steps)
    device, size = representations.device, representations.shape[1]
    weights = [torch.zeros(classes, size, device=device, requires_grad=True) for _ in rates]
    biases = [torch.zeros(classes, device=device, requires_grad=True) for _ in rates]
    optimizer = torch.optim.AdamW(
        [{"params": [w], "lr": rate, "weight_decay": decay} for w, (rate, decay) in zip(weights, rates, strict=True)]
        + [{"params": [b], "lr": rate, "weight_decay": 0.0} for b, (rate, _) in zip(biases, rates, strict=True)]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % per_epoch == 0:
            order = chosen[torch.randperm(len(chosen), generator=generator).to(device)]
        part = order[step % per_epoch * batch :][:batch]
        features = (representations[part] - mean) * scale
        logits = F.linear(features, torch.cat(weights), torch.cat(biases)).view(batch, len(rates), classes)
        # A sum over the settings: each has its own mean loss, and its own gradient.
        loss = (
            F.cross_entropy(logits.transpose(1, 2), labels[part, None].expand(-1, len(rates)), reduction="sum") / batch
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return torch.stack([w.detach() for w in weights]), torch.stack([b.detach() for b in biases])
