"""The networks and the objective of one run, and the forward pass from images to losses."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from metaug_ray.method.compiled_tangents import CompiledTangents
from metaug_ray.method.encoders import MultiViewEncoder, MultiViewOutput
from metaug_ray.method.generators import Generators
from metaug_ray.method.objective import Losses, Objective
from metaug_ray.method.precision import autocast
from metaug_ray.method.similarities import Similarities
from metaug_ray.method.targets.targets import Keys


class Comparison(NamedTuple):
    """What the features of one minibatch give against their targets."""

    losses: Losses
    original: Similarities
    augmented: Similarities | None
    """None without generators."""

    def detach(self) -> "Comparison":
        """The same values without graph."""
        return Comparison(
            Losses(*(loss.detach() for loss in self.losses)),
            Similarities(*(d.detach() for d in self.original)),
            self.augmented and Similarities(*(d.detach() for d in self.augmented)),
        )

    @staticmethod
    def join(parts: Sequence["Comparison"]) -> "Comparison":
        """The comparison of a minibatch from those of its parts, which are of one size."""
        if len(parts) == 1:
            return parts[0]
        losses = Losses(*(torch.stack(terms).mean() for terms in zip(*(part.losses for part in parts), strict=True)))
        original = Similarities(*(torch.cat(d) for d in zip(*(part.original for part in parts), strict=True)))
        augmented = [part.augmented for part in parts if part.augmented is not None]
        return Comparison(
            losses, original, Similarities(*(torch.cat(d) for d in zip(*augmented, strict=True))) if augmented else None
        )


@dataclass(frozen=True)
class Model:
    """Encoders, generators and objective.

    Args:
        encoder: a :class:`~metaug_ray.method.encoders.MultiViewEncoder`, as it is or wrapped by DDP and
            `torch.compile`.
        generators: the MAGs; None for the variants without them. Not wrapped by DDP: their gradient has a part that
            no backward pass through them makes, so :func:`~metaug_ray.method.meta_gradient.meta_gradient` averages it.
        objective: the losses.
        autocast: torch.bfloat16 runs the encoder in mixed precision, None in its own. Generators and contrast run in
            the features' precision in any case: they are cheap, and differentiated twice. An autocast context that the
            caller has open has no say.
        group: ranks that share a minibatch; None for the default group, or for this process alone where there is none.
        compiled_tangents: of this encoder and precision; None to make tangents from dual numbers, without compilation.
    """

    encoder: nn.Module
    generators: Generators | None
    objective: Objective
    autocast: torch.dtype | None = None
    group: dist.ProcessGroup | None = None
    compiled_tangents: CompiledTangents | None = None

    @property
    def eager_encoder(self) -> MultiViewEncoder:
        """The encoder beneath DDP and `torch.compile`."""
        module = self.encoder
        while not isinstance(module, MultiViewEncoder):
            inner = module.module if isinstance(module, DistributedDataParallel) else getattr(module, "_orig_mod", None)
            if not isinstance(inner, nn.Module):
                raise TypeError(
                    f"encoder must be a MultiViewEncoder, plain, compiled or in DDP, got {type(module).__name__}"
                )
            module = inner
        return module

    @property
    def distributed_encoder(self) -> DistributedDataParallel | None:
        """The DDP that wraps the encoder, if one does."""
        wrappers = (m for m in self.encoder.modules() if isinstance(m, DistributedDataParallel))
        return next(wrappers, None)

    @property
    def compiled(self) -> bool:
        """Whether `torch.compile` makes the encoder's forward pass."""
        wrapper = self.distributed_encoder
        outermost = self.encoder if wrapper is None else wrapper.module
        return hasattr(outermost, "_orig_mod") or outermost._compiled_call_impl is not None

    def local_unless(self, last: bool) -> AbstractContextManager[None]:
        """The context of the forward and backward pass of one part of a minibatch: DDP averages the gradients of all
        parts in the last one's."""
        wrapper = self.distributed_encoder
        return nullcontext() if last or wrapper is None else wrapper.no_sync()

    def encode(self, images: Sequence[Tensor]) -> MultiViewOutput:
        """Representations and features of one tensor [B, C_v, H, W] per view, through DDP where there is one."""
        with autocast(images[0].device, self.autocast):
            output: MultiViewOutput = self.encoder(images)
        return output

    def augment(self, features: Tensor) -> Tensor:
        """Augmented features a_v(e_v), [V, B, D].

        Raises:
            ValueError: there are no generators.
        """
        if self.generators is None:
            raise ValueError("this model has no generators to augment features with: build it with Generators")
        augmented: Tensor = self.generators(features)
        return augmented

    def compare(self, features: Tensor, keys: Keys) -> Comparison:
        """Losses and similarities of features e [V, B, D] against their targets, differentiable in e, theta and omega.
        A collective call."""
        with autocast(features.device, None):
            original = keys.similarities(features, features)
            augmented = None if self.generators is None else keys.similarities(self.augment(features), features)
            return Comparison(self.objective(original, augmented), original, augmented)
