"""One run of a study on one device, without Ray: trained by the main job's own loop, judged by its own classifiers."""

import time
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from jobs.studies.worth.images import MemoryLoader, Parts
from metaug_ray.config.evaluate import ProbeSettings
from metaug_ray.config.pretrain import KNN_ACCURACY, PretrainSettings
from metaug_ray.evaluation.linear_probe import train_probe
from metaug_ray.knn import weighted_knn
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.model import Model
from metaug_ray.training.batches import batches_of
from metaug_ray.training.loop import train
from metaug_ray.training.representations import frozen_encoder, representations
from metaug_ray.training.state import TrainingState, build_state

_BATCH = 1000
_PROBE = ProbeSettings(label_shares=(1.0,), seeds=1)


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        series: (epoch, kNN accuracy on the images that decide).
        seconds: of the whole run.
        step_seconds: of these, those of its steps.
        judged: accuracies by what judged them, if it was judged.
        augmented: what augmented features looked like in the end, if it had generators and was judged.
    """

    series: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: float = 0.0
    judged: dict[str, float] = field(default_factory=dict)
    augmented: dict[str, float] = field(default_factory=dict)


def run(settings: PretrainSettings, parts: Parts, device: torch.device, *, judged: bool) -> Outcome:
    """Train as the settings say, and measure.

    Args:
        settings: of the run. Of its data only the batch size, the crops and mirroring count here.
        parts: on the device.
        device: CPU or GPU.
        judged: whether the images that judge are looked at.

    Raises:
        metaug_ray.training.loop.StoppedError: it diverged.
    """
    began = time.perf_counter()
    parts = parts.of(settings.data.beton)
    state = build_state(settings, len(parts.learn.labels), device)
    batches = batches_of(settings, partial(_loader, settings, parts))
    outcome = Outcome()
    observer = _Series(outcome, batches.steps_per_epoch)
    train(settings, state, batches, observer, device=device, evaluate=partial(_online, settings, state, parts))
    outcome.step_seconds = state.seconds
    if judged:
        outcome.judged = _judged(settings, state, parts)
        if state.metaug.model.generators is not None:
            minibatch = next(batches.regular(state.step))
            outcome.augmented = augmented_features(state, minibatch)
    outcome.seconds = time.perf_counter() - began
    return outcome


def _loader(settings: PretrainSettings, parts: Parts, seed: int) -> MemoryLoader:
    data = settings.data
    return MemoryLoader(parts.learn.images, settings.training.batch_size, data.augmentation, seed, data.order)


class _Series:
    """Keeps the kNN accuracies of a run, and no checkpoint."""

    def __init__(self, outcome: Outcome, steps_per_epoch: int) -> None:
        self._outcome, self._steps_per_epoch = outcome, steps_per_epoch

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if KNN_ACCURACY in values:
            self._outcome.series.append((step / self._steps_per_epoch, values[KNN_ACCURACY]))

    def histograms(self, step: int, values: dict[str, list[float]]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def save(self, state: TrainingState, metrics: dict[str, float]) -> None:
        pass


def _online(settings: PretrainSettings, state: TrainingState, parts: Parts) -> dict[str, float]:
    learnt = _representations(state.metaug.model, parts.learn.images)
    asked = _representations(state.metaug.model, parts.decide.images)
    return {KNN_ACCURACY: _knn(settings, learnt, parts.learn.labels, asked, parts.decide.labels)}


def _judged(settings: PretrainSettings, state: TrainingState, parts: Parts) -> dict[str, float]:
    """Accuracies of kNN and linear probe, by the names that a sweep's comparison has for them."""
    model = state.metaug.model
    learnt, labels = _representations(model, parts.learn.images), parts.learn.labels
    probe = train_probe(learnt, labels, _classes(labels), _PROBE, settings.seed)
    found: dict[str, float] = {}
    for name, part in (("judge", parts.judge), ("seen", parts.seen)):
        asked = _representations(model, part.images)
        found[f"{name}/knn/top1"] = _knn(settings, learnt, labels, asked, part.labels)
        found[f"{name}/linear/top1"] = float((probe.logits(asked).argmax(1) == part.labels).float().mean())
    return found


def _knn(settings: PretrainSettings, learnt: Tensor, labels: Tensor, asked: Tensor, truth: Tensor) -> float:
    knn = settings.health.knn
    predictions = weighted_knn(
        learnt, labels, asked, classes=_classes(labels), neighbours=knn.neighbours, temperature=knn.temperature
    )
    return float((predictions == truth).float().mean())


def _classes(labels: Tensor) -> int:
    return int(labels.max()) + 1


def _representations(model: Model, images: Tensor) -> Tensor:
    """Of as many images as there are, some at a time, [N, V H]."""
    with frozen_encoder(model):
        return torch.cat([representations(model, part) for part in images.split(_BATCH)])


def augmented_features(state: TrainingState, minibatch: Minibatch) -> dict[str, float]:
    """What the generators make of a minibatch's features, beside the features themselves.

    Returns:
        Means and deviations of similarities (figure 2), mean cosine of a feature and its augmented one, and what
        the gradient of the augmented loss in the features is beside that of the original one: its length, its cosine,
        and the part of it that does not lie along the other.
    """
    metaug = state.metaug
    model, step = metaug.model, state.step
    with torch.no_grad():
        features = model.encode(minibatch.images).features
        turned = (model.augment(features.float()) * features).sum(-1).mean()
    sample = metaug.targets.sample(minibatch.indices, step)
    features = features.float().requires_grad_()
    seen = model.compare(features, sample)
    (original,) = torch.autograd.grad(seen.losses.original, features, retain_graph=True)
    (augmented,) = torch.autograd.grad(seen.losses.augmented, features)
    cosine = float((original * augmented).sum() / (original.norm() * augmented.norm()))
    found = {
        "cosine_of_feature_and_augmented": float(turned),
        "gradient_length_ratio": float(augmented.norm() / original.norm()),
        "weighted_gradient_length_ratio": float(model.objective.delta * augmented.norm() / original.norm()),
        "gradient_cosine": cosine,
        "gradient_own_share": (1 - cosine**2) ** 0.5,
    }
    seen = seen.detach()
    for prefix, similarities in (("", seen.original), ("augmented_", seen.augmented)):
        for kind, values in similarities._asdict().items() if similarities is not None else ():
            found[f"{prefix}{kind}_mean"] = float(values.mean())
            found[f"{prefix}{kind}_deviation"] = float(values.std())
    return found
