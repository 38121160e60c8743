"""Algorithm 1 of the paper: one training step of encoders and generators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metaug_ray.choices import MetaSchedule, check_choice
from metaug_ray.method import distributed, draws
from metaug_ray.method.batch_norm import SynchronizedBatchNorm
from metaug_ray.method.buffers import SavedBuffers, fixed_buffers
from metaug_ray.method.linearization import WHOLE, Linearization, Part
from metaug_ray.method.lookahead import Lookahead
from metaug_ray.method.meta_gradient import (
    Rates,
    StepTaken,
    linearize,
    lookahead_gradient,
    meta_gradient,
    model_gradient,
    parts_of,
    trained,
)
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Losses
from metaug_ray.method.similarities import Similarities
from metaug_ray.method.targets import MemoryBank, Sample, Targets


class Minibatch(NamedTuple):
    """This rank's part of a minibatch."""

    images: Sequence[Tensor]
    """One tensor [B, C_v, H, W] per view (:func:`~metaug_ray.method.views.split_views`)."""
    indices: Tensor
    """Data set index n_i of each image, int64 [B], best on the CPU."""
    global_indices: Tensor | None = None
    """Those of all ranks' images, rank by rank, int64 [W * B] on the CPU; None: the ranks ask one another."""


@dataclass(frozen=True)
class MetaStep:
    """How and when the generators are trained.

    Args:
        schedule: one of :data:`~metaug_ray.choices.MetaSchedule`.
        virtual_learning_rate: l of the virtual step (Eq. 3), above 0. With `lookahead` and SGD it is the encoders' own.
        every: n, to take the meta step on each n-th step, from step 0 on; with `lookahead` from step n on, and not
            after a step that was skipped.
        share: of each rank's images, drawn anew each time, that forward-mode differentiation takes; one over a whole
            number. Every image still has its part in v.
        keep_activations: whether that takes the activations of the encoders' own forward pass, which are kept for it,
            rather than to compute them again: less time, more memory. Batch norm then has the statistics of all images,
            not of the share.

    Raises:
        ValueError: an argument is none of these.
    """

    schedule: MetaSchedule = "fused"
    virtual_learning_rate: float = 1e-3
    every: int = 1
    share: float = 1.0
    keep_activations: bool = False

    def __post_init__(self) -> None:
        if self.every < 1 or self.every % 1:
            raise ValueError(f"every is {self.every}: the meta step is taken on each n-th step, n an integer from 1 on")
        check_choice("schedule", self.schedule, MetaSchedule)
        if not 0 < self.share <= 1 or abs(self.parts * self.share - 1) > 1e-2:
            raise ValueError(f"share is {self.share}: it must be one over a whole number, such as 0.25")
        if not 0 < self.virtual_learning_rate < math.inf:
            raise ValueError(f"virtual_learning_rate is {self.virtual_learning_rate}: it must be positive")

    @property
    def parts(self) -> int:
        """Of which `share` is one."""
        return round(1 / self.share)


class GradientNorms(NamedTuple):
    """l2 norms of the gradients of one step, over all ranks and before clipping; scalars."""

    encoder: Tensor
    head: Tensor
    generator: Tensor
    """0 where the step trains no generators."""


class StepOutcome(NamedTuple):
    """What one step saw, before its update, without graph."""

    losses: Losses
    """Losses of this rank's part of the minibatch."""
    original: Similarities
    """Similarities of its original features."""
    augmented: Similarities | None
    """Similarities of its augmented features; None without generators."""
    features: Tensor
    """Its features e, [V, B, D]."""
    norms: GradientNorms
    applied: bool
    """Whether all that the step trains moved. Where a loss or a gradient is not finite, nothing does; where the
    `separate` schedule's own gradient alone is not, encoders and bank do. The same on all ranks."""


class MetAug:
    """The training of a model against its targets, a step at a time.

    Args:
        model: encoders, generators (None for the variants without) and objective. The generators of all ranks are made
            equal to the first rank's here, as DDP does with the encoder.
        targets: what anchors are compared with: a memory bank, the batch, or neighbours.
        encoder_optimizer: optimiser of the encoder's parameters.
        generator_optimizer: optimiser of the generators' parameters; None without generators.
        meta: how the generators are trained.
        head_optimizer: optimiser of the projection heads' parameters, if the encoder's leaves them out.
        clip_norm: greatest l2 norm of the gradient of encoders and heads together, and of that of the generators.
        accumulation: parts that each minibatch is taken through the encoder in, to save memory; batch norm sees a part,
            contrast and targets the whole. With a memory bank the margins of R_sigma see a part too; other targets
            compare each anchor with the whole global batch, and take one forward pass more.

    Raises:
        ValueError: generators without their optimiser, or the other way round; encoder, generators and targets of
            different views or feature sizes; several ranks and an encoder that is not in DDP; `clip_norm` not above 0
            or `accumulation` below 1; `keep_activations` of a compiled encoder or with `accumulation`.
    """

    def __init__(
        self,
        model: Model,
        targets: Targets,
        encoder_optimizer: Optimizer,
        generator_optimizer: Optimizer | None = None,
        meta: MetaStep = MetaStep(),
        *,
        head_optimizer: Optimizer | None = None,
        clip_norm: float | None = None,
        accumulation: int = 1,
    ) -> None:
        _check_fit(model, targets, generator_optimizer)
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise ValueError(f"clip_norm is {clip_norm}: it must be positive, or None for no clipping")
        if accumulation < 1:
            raise ValueError(f"accumulation is {accumulation}: a minibatch has at least 1 part")
        if model.generators is not None and meta.keep_activations and (accumulation > 1 or model.compiled):
            raise ValueError("keep_activations needs an encoder that is not compiled, and accumulation 1")
        self.model, self.targets, self.meta = model, targets, meta
        self.encoder_optimizer, self.generator_optimizer = encoder_optimizer, generator_optimizer
        self.head_optimizer, self.clip_norm, self.accumulation = head_optimizer, clip_norm, accumulation
        self._has_batch_norm = _has_batch_norm(model)
        self._statistics = SavedBuffers(model.eager_encoder, model.generators)
        self.lookahead: Lookahead | None = None
        if model.generators is not None:
            distributed.broadcast_module(model.generators, model.group)
            if meta.schedule == "lookahead":
                optimizers = [encoder_optimizer, *([] if head_optimizer is None else [head_optimizer])]
                self.lookahead = Lookahead(model, targets, optimizers, meta.virtual_learning_rate)

    def takes_meta_step(self, step: int) -> bool:
        """Whether step number `step` trains the generators; with the `separate` schedule it then needs a minibatch for
        that, with `lookahead` the step before."""
        possible = self.model.generators is not None and (self.lookahead is None or self.lookahead.keeps)
        return possible and step % self.meta.every == 0

    def step(self, step: int, minibatch: Minibatch, meta_minibatch: Minibatch | None = None) -> StepOutcome:
        """Train on one minibatch (two with the `separate` schedule), and let the targets take over what it made.

        A collective call: every rank passes its part of the global minibatch, parts of one size. The regular forward
        pass is the only one that moves batch-norm running statistics. Where a loss or a gradient of any rank is not
        finite, no parameter, row or statistic moves (see `StepOutcome.applied`).

        Args:
            step: number of the step, from 0 on: with the bank's seed it determines the negatives.
            minibatch: images of the regular step.
            meta_minibatch: images of the meta step, in the `separate` schedule.

        Raises:
            ValueError: `meta_minibatch` is missing, or given where none is used; a minibatch is too small (generators
                and deep heads have batch norm and need two images in each part), does not divide into the parts of
                `accumulation` or of `share`, or has another number of indices than of images.
            IndexError: see :meth:`~metaug_ray.method.targets.memory_bank.MemoryBank.sample`.
        """
        self._check_step(step, minibatch, meta_minibatch)
        takes_meta_step = self.takes_meta_step(step)
        together = takes_meta_step and meta_minibatch is None
        self._statistics.save()
        sample = self.targets.ask(minibatch.indices, step, global_index=minibatch.global_indices)
        previous = None if self.lookahead is None else self.lookahead.take()
        if not takes_meta_step:
            previous = None
        keeps = self.lookahead is not None and (step + 1) % self.meta.every == 0
        records = self.meta.keep_activations and (together if self.lookahead is None else keeps)
        linearization = self._linearization(step + 1 if keeps else step) if records else None
        output, keys, seen = model_gradient(
            self.model,
            minibatch.images,
            sample,
            self.accumulation,
            generators=previous is not None,
            linearization=linearization,
        )
        features = output.features
        if previous is not None:
            self._lookahead_gradient(step, *previous)
        elif together:
            self._meta_gradient(step, minibatch, keys, features, linearization)
        norms = self._norms(together, features)
        # The host waits for the device here, and for a meta step of its own once more, but nowhere else.
        if not self._finite(seen.losses.total, *norms):
            self._statistics.restore()
            self._drop_gradients()
            return StepOutcome(*seen, features, norms, applied=False)

        if self.lookahead is not None and keeps:
            self.lookahead.keep(minibatch.images, keys, features, self._shrink(norms), linearization)
        self._move_encoders(norms)
        self.targets.update(keys, output.projections)
        applied = True
        if meta_minibatch is not None:
            own = self.targets.ask(
                meta_minibatch.indices, step, stream="meta", global_index=meta_minibatch.global_indices
            )
            linearization = self._linearization(step) if self.meta.keep_activations else None
            self._meta_gradient(step, meta_minibatch, own, None, linearization)
            norms = norms._replace(generator=_norm(self.model.generators))
            applied = self._finite(norms.generator)
        if takes_meta_step and applied:
            self._move_generators(norms)
        return StepOutcome(*seen, features, norms, applied)

    def fill_bank(self, minibatch: Minibatch) -> None:
        """Write the features of a minibatch to the bank, without training on it. A collective call; batch norm uses the
        minibatch's statistics, as in training, and its running ones stay as they are.

        Raises:
            TypeError: the targets are no memory bank.
            ValueError, IndexError: as :meth:`step`.
        """
        if not isinstance(self.targets, MemoryBank):
            raise TypeError("only a memory bank can be filled with features")
        self._check_minibatch(minibatch)
        with torch.no_grad(), fixed_buffers(self.model.eager_encoder):
            parts = parts_of(minibatch.images, self.accumulation)
            features = torch.cat([self.model.encode(part).projections for part in parts], 1)
        self.targets.fill(minibatch.indices, features, minibatch.global_indices)

    def _check_step(self, step: int, minibatch: Minibatch, meta_minibatch: Minibatch | None) -> None:
        needed = self.takes_meta_step(step) and self.meta.schedule == "separate"
        this = f"step {step} of schedule {self.meta.schedule!r}"
        if needed and meta_minibatch is None:
            raise ValueError(f"{this} needs a meta_minibatch: the meta step has its own")
        if meta_minibatch is not None and not needed:
            raise ValueError(f"{this} takes no meta_minibatch")
        for each in (minibatch, meta_minibatch):
            if each is not None:
                self._check_minibatch(each)

    def _check_minibatch(self, minibatch: Minibatch) -> None:
        sizes = [len(images) for images in minibatch.images]
        size = len(minibatch.indices)
        if set(sizes) != {size}:
            raise ValueError(f"a minibatch has {size} indices and {sizes} images in its views")
        if size % self.accumulation:
            raise ValueError(f"a minibatch of {size} does not divide into {self.accumulation} parts (accumulation)")
        least = 2 if self._has_batch_norm else 1
        if size // self.accumulation < least:
            parts = f" in {self.accumulation} parts" if self.accumulation > 1 else ""
            raise ValueError(f"a minibatch of {size}{parts} is too small: give each rank at least {least}")
        shares = 1 if self.model.generators is None else self.meta.parts
        if size % shares or size // shares < least:
            raise ValueError(f"a minibatch of {size} does not divide into {shares} parts of at least {least} (share)")

    def _part(self, step: int) -> Part:
        """Whose tangents this step takes."""
        parts = self.meta.parts
        if parts == 1:
            return WHOLE
        random = draws.generator("part", "meta", 0, step)
        return Part(int(torch.randint(parts, (), generator=random)), parts)

    def _linearization(self, step: int) -> Linearization:
        """To be recorded for this step's tangents."""
        return Linearization(self.model.eager_encoder, self._part(step), self.model.autocast)

    def _lookahead_gradient(self, step: int, taken: StepTaken, rates: Rates) -> None:
        if self.meta.keep_activations and taken.linearization is None:  # it comes from a checkpoint
            taken = linearize(self.model, taken, self._linearization(step))
        lookahead_gradient(self.model, taken, rates, self.accumulation, self._part(step))

    def _meta_gradient(
        self,
        step: int,
        minibatch: Minibatch,
        sample: Sample,
        features: Tensor | None,
        linearization: Linearization | None,
    ) -> None:
        meta_gradient(
            self.model,
            minibatch.images,
            sample,
            virtual_learning_rate=self.meta.virtual_learning_rate,
            features=features,
            accumulation=self.accumulation,
            part=self._part(step),
            linearization=linearization,
        )

    def _finite(self, *values: Tensor) -> bool:
        # A mean over the ranks is finite where all are, and one answer for all.
        together = torch.stack([value.double() for value in values])
        distributed.average([together], self.model.group)
        return bool(together.isfinite().all())

    def _norms(self, together: bool, features: Tensor) -> GradientNorms:
        encoder = self.model.eager_encoder
        generators = self.model.generators if together else None
        return GradientNorms(_norm(encoder.encoders), _norm(encoder.heads), _norm(generators, like=features))

    def _drop_gradients(self) -> None:
        self.model.encoder.zero_grad()
        if self.model.generators is not None:
            self.model.generators.zero_grad()

    def _shrink(self, norms: GradientNorms) -> Tensor | None:
        """What clipping scales the encoders' gradient with."""
        if self.clip_norm is None:
            return None
        return (self.clip_norm / (_both(norms) + 1e-6)).clamp(max=1.0)

    def _move_encoders(self, norms: GradientNorms) -> None:
        self._clip(list(trained(self.model.eager_encoder).values()), _both(norms))
        self.encoder_optimizer.step()
        if self.head_optimizer is not None:
            self.head_optimizer.step()

    def _move_generators(self, norms: GradientNorms) -> None:
        if self.generator_optimizer is not None and self.model.generators is not None:
            self._clip(list(self.model.generators.parameters()), norms.generator)
            self.generator_optimizer.step()

    def _clip(self, parameters: list[nn.Parameter], norm: Tensor) -> None:
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)


def _check_fit(model: Model, targets: Targets, generator_optimizer: Optimizer | None) -> None:
    if (model.generators is None) != (generator_optimizer is None):
        raise ValueError(
            "a model with generators needs a generator_optimizer, and one without takes none: "
            f"got {'no ' if model.generators is None else ''}generators and "
            f"{'no ' if generator_optimizer is None else 'a '}generator_optimizer"
        )
    encoder, generators = model.eager_encoder, model.generators
    ranks = distributed.world_size(model.group)
    if ranks > 1 and model.distributed_encoder is None:
        raise ValueError(
            f"the encoder of {ranks} ranks is not wrapped in DistributedDataParallel: "
            "without it each rank would train an encoder of its own"
        )
    shapes = {"encoder": (len(encoder.views), encoder.feature_size), "targets": (targets.views, targets.feature_size)}
    if generators is not None:
        shapes["generators"] = (generators.views, generators.feature_size)
    if len(set(shapes.values())) > 1:
        raise ValueError(f"these differ in (views, feature size), and must not: {shapes}")


def _both(norms: GradientNorms) -> Tensor:
    """l2 norm of the gradient of encoders and heads."""
    both: Tensor = torch.stack([norms.encoder, norms.head]).norm()
    return both


def _norm(module: nn.Module | None, like: Tensor | None = None) -> Tensor:
    """l2 norm of a module's gradients, 0 without a module."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None] if module is not None else []
    if not gradients:
        return torch.zeros((), device=None if like is None else like.device)
    norm: Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
    return norm


def _has_batch_norm(model: Model) -> bool:
    """Whether heads or generators normalise over this rank's images, of which there must be two. (Encoders do over
    pixels too.)"""
    alone = distributed.world_size(model.group) == 1
    norms = (nn.BatchNorm1d, SynchronizedBatchNorm) if alone else (nn.BatchNorm1d,)
    modules = [model.eager_encoder.heads, *([] if model.generators is None else [model.generators])]
    return any(isinstance(part, norms) for module in modules for part in module.modules())
