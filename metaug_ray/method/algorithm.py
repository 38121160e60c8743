"""Algorithm 1 of the paper: one training step of encoders and generators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from metaug_ray.method import distributed
from metaug_ray.method.choices import check_choice
from metaug_ray.method.memory_bank import BankSample, MemoryBank
from metaug_ray.method.meta_gradient import MetaMode, meta_gradient
from metaug_ray.method.model import Comparison, Model
from metaug_ray.method.objective import Losses
from metaug_ray.method.similarities import Similarities

MetaSchedule = Literal["fused", "separate"]
"""`fused`: the meta step takes the regular step's minibatch and shares its gradient; encoders and generators step
together. `separate`: Algorithm 1 as printed: encoders step first, then the meta step takes its own minibatch."""


class Minibatch(NamedTuple):
    """This rank's part of a minibatch."""

    images: Sequence[Tensor]
    """One tensor [B, C_v, H, W] per view (:func:`~metaug_ray.method.views.split_views`)."""
    indices: Tensor
    """Data set index n_i of each image, int64 [B], best on the CPU."""


@dataclass(frozen=True)
class MetaStep:
    """How and when the generators are trained.

    Args:
        schedule: see :data:`MetaSchedule`.
        mode: see :data:`~metaug_ray.method.meta_gradient.MetaMode`.
        virtual_learning_rate: l of the virtual step (Eq. 3).
        every: take the meta step on each n-th step, from step 0 on.

    Raises:
        ValueError: an argument is none of these.
    """

    schedule: MetaSchedule = "fused"
    mode: MetaMode = "jvp"
    virtual_learning_rate: float = 1e-3
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.every % 1:
            raise ValueError(f"every is {self.every}: the meta step is taken on each n-th step, n an integer from 1 on")
        check_choice("schedule", self.schedule, MetaSchedule)
        check_choice("meta gradient mode", self.mode, MetaMode)
        if not 0 < self.virtual_learning_rate < math.inf:
            raise ValueError(f"virtual_learning_rate is {self.virtual_learning_rate}: it must be positive")


class MetAug:
    """The training of a model against a memory bank, a step at a time.

    Args:
        model: encoders, generators (None for the variants without) and objective. The generators of all ranks are made
            equal to the first rank's here, as DDP does with the encoder.
        bank: the memory bank.
        encoder_optimizer: over the encoder's parameters.
        generator_optimizer: over the generators' parameters; None without generators.
        meta: how the generators are trained.

    Raises:
        ValueError: generators without their optimiser, or the other way round; encoder, generators and bank of
            different views or feature sizes; several ranks and an encoder that is not in DDP.
    """

    def __init__(
        self,
        model: Model,
        bank: MemoryBank,
        encoder_optimizer: Optimizer,
        generator_optimizer: Optimizer | None = None,
        meta: MetaStep = MetaStep(),
    ) -> None:
        if (model.generators is None) != (generator_optimizer is None):
            raise ValueError(
                "a model with generators needs a generator_optimizer, and one without takes none: "
                f"got {'no ' if model.generators is None else ''}generators and "
                f"{'no ' if generator_optimizer is None else 'a '}generator_optimizer"
            )
        encoder, generators = model.eager_encoder, model.generators
        ranks = distributed.world_size(model.group)
        if ranks > 1 and not any(isinstance(module, DistributedDataParallel) for module in model.encoder.modules()):
            raise ValueError(
                f"the encoder of {ranks} ranks is not wrapped in DistributedDataParallel: "
                "without it each rank would train an encoder of its own"
            )
        shapes = {"encoder": (len(encoder.views), encoder.feature_size), "bank": (bank.views, bank.feature_size)}
        if generators is not None:
            shapes["generators"] = (generators.views, generators.feature_size)
        if len(set(shapes.values())) > 1:
            raise ValueError(f"these differ in (views, feature size), and must not: {shapes}")
        self.model, self.bank, self.meta = model, bank, meta
        self.encoder_optimizer, self.generator_optimizer = encoder_optimizer, generator_optimizer
        if model.generators is not None:
            distributed.broadcast_module(model.generators, model.group)

    def takes_meta_step(self, step: int) -> bool:
        """Whether step number `step` trains the generators; with the `separate` schedule it then needs a minibatch for
        that."""
        return self.model.generators is not None and step % self.meta.every == 0

    def step(self, step: int, minibatch: Minibatch, meta_minibatch: Minibatch | None = None) -> Comparison:
        """Train on one minibatch (two with the `separate` schedule), and refresh the bank's rows of `minibatch`.

        A collective call: every rank passes its part of the global minibatch, parts of one size. The regular forward
            pass is
        the only one that moves batch-norm running statistics.

        Args:
            step: number of the step, from 0 on: with the bank's seed it determines the negatives.
            minibatch: for the regular step.
            meta_minibatch: for the meta step of the `separate` schedule.

        Returns:
            Losses and similarities of this rank's part before the update, without graph.

        Raises:
            ValueError: `meta_minibatch` is missing, or given where none is used; a minibatch is too small (generators
                have batch norm and need two images) or has another number of indices than of images.
            IndexError: see :meth:`~metaug_ray.method.memory_bank.MemoryBank.sample`.
        """
        meta = self.takes_meta_step(step)
        separate = meta and self.meta.schedule == "separate"
        if separate != (meta_minibatch is not None):
            raise ValueError(
                f"step {step} of schedule {self.meta.schedule!r} "
                + ("needs a meta_minibatch: the meta step has its own" if separate else "takes no meta_minibatch")
            )

        for part in (minibatch, meta_minibatch):
            if part is not None:
                self._check(part)
        self.model.encoder.zero_grad()
        sample = self.bank.sample(minibatch.indices, step)
        features, comparison = self._regular_gradient(minibatch, sample)
        if meta and meta_minibatch is None:
            self._meta_gradient(minibatch, sample, features)
        self.encoder_optimizer.step()
        self.bank.refresh(sample, features)
        if meta_minibatch is not None:
            self._meta_gradient(meta_minibatch, self.bank.sample(meta_minibatch.indices, step, stream="meta"), None)
        if meta and self.generator_optimizer is not None:
            self.generator_optimizer.step()
        return comparison

    def _check(self, minibatch: Minibatch) -> None:
        sizes = [len(images) for images in minibatch.images]
        if set(sizes) != {len(minibatch.indices)}:
            raise ValueError(f"a minibatch has {len(minibatch.indices)} indices and {sizes} images in its views")
        least = 1 if self.model.generators is None else 2
        if len(minibatch.indices) < least:
            raise ValueError(f"a minibatch of {len(minibatch.indices)} is too small: give each rank at least {least}")

    def _regular_gradient(self, minibatch: Minibatch, sample: BankSample) -> tuple[Tensor, Comparison]:
        """grad_theta L_MetAug to `.grad`, averaged over the ranks by DDP; omega is held constant."""
        features = self.model.encode(minibatch.images)
        comparison = self.model.compare(features, sample)
        theta = [parameter for parameter in self.model.encoder.parameters() if parameter.requires_grad]
        with torch.autocast(features.device.type, enabled=False):
            torch.autograd.backward(comparison.losses.total, inputs=theta)
        losses, original, augmented = comparison
        return features.detach(), Comparison(
            Losses(*(loss.detach() for loss in losses)), _detached(original), augmented and _detached(augmented)
        )

    def _meta_gradient(self, minibatch: Minibatch, sample: BankSample, features: Tensor | None) -> None:
        meta_gradient(
            self.model,
            minibatch.images,
            sample,
            virtual_learning_rate=self.meta.virtual_learning_rate,
            mode=self.meta.mode,
            features=features,
        )


def _detached(similarities: Similarities) -> Similarities:
    return Similarities(*(d.detach() for d in similarities))
