"""The tangent of the features, of all views, as one graph that `torch.compile` makes faster.

Dual numbers lose their tangents under `torch.compile` (pytorch#187284); `torch.func.jvp` within it does not. It takes
pure functions alone and sees no autocast, so the encoder is one whose batch norm keeps no statistics and whose casts
are its own.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from metaug_ray.method.batch_norm import SynchronizedBatchNorm
from metaug_ray.method.encoders import MultiViewEncoder


class CompiledTangents:
    """J_theta e . direction of an encoder in training mode, compiled at its first call, for one shape of images.

    Args:
        encoder: whose features e are. Only its structure is taken; parameters come with each call.
        autocast: torch.bfloat16 for mixed precision, None for the parameters' own.
        backend: of `torch.compile`.

    Raises:
        ValueError: the encoder has batch norm over several ranks, whose collectives cannot be compiled.
    """

    def __init__(
        self, encoder: MultiViewEncoder, autocast: torch.dtype | None = None, backend: str = "inductor"
    ) -> None:
        if any(isinstance(module, SynchronizedBatchNorm) for module in encoder.modules()):
            raise ValueError("synchronised batch norm has no compiled tangents: its collectives cannot be compiled")
        self._autocast = autocast
        self._narrow = set() if autocast is None else _of_products(encoder)
        self._structure = _pure(encoder)
        # The shapes of a run do not change: one graph for them, without guards on sizes.
        self._compiled = torch.compile(self._tangent, backend=backend, dynamic=False)

    def __call__(
        self, images: Sequence[Tensor], theta: Mapping[str, Tensor], direction: Mapping[str, Tensor]
    ) -> Tensor:
        """The tangent [V, B, D], without graph.

        Args:
            images: one tensor [B, C_v, H, W] per view.
            theta: parameters that `direction` moves, by name; all of the encoder's.
            direction: tangents of these.
        """
        with torch.no_grad():
            edot: Tensor = self._compiled(list(images), dict(theta), dict(direction))
        return edot

    def _tangent(self, images: list[Tensor], theta: dict[str, Tensor], direction: dict[str, Tensor]) -> Tensor:
        if self._autocast is not None:
            images = [each.to(self._autocast) for each in images]

        def features(parameters: dict[str, Tensor]) -> Tensor:
            cast = {name: p.to(self._autocast) if name in self._narrow else p for name, p in parameters.items()}
            made: Tensor = functional_call(self._structure, cast, (images,)).features
            return made

        tangent: Tensor = torch.func.jvp(features, (theta,), (direction,))[1]
        return tangent


class _PureBatchNorm(nn.Module):
    """Batch norm with its minibatch's statistics, in their precision, as autocast has it; it keeps none."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self._eps = norm.weight, norm.bias, norm.eps

    def forward(self, inputs: Tensor) -> Tensor:
        precise = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        return F.batch_norm(precise, None, None, self.weight, self.bias, True, 0.0, self._eps).to(inputs.dtype)


def _pure(encoder: MultiViewEncoder) -> MultiViewEncoder:
    """A copy without memory for parameters."""
    copied = deepcopy(encoder).to("meta")
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, _PureBatchNorm(child))
    return copied


def _of_products(encoder: MultiViewEncoder) -> set[str]:
    """Names of the parameters of convolutions and linear layers, which autocast narrows."""
    layers = {name: module for name, module in encoder.named_modules() if isinstance(module, _ConvNd | nn.Linear)}
    return {f"{name}.{parameter}" for name, layer in layers.items() for parameter, _ in layer.named_parameters()}
