"""The contrasts by the names that users choose."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch.distributed as dist
from torch import Tensor, nn

from metaug_ray.method.contrast.infonce import debiased_info_nce, hard_info_nce, info_nce
from metaug_ray.method.contrast.noise_contrastive import NoiseContrastiveEstimation
from metaug_ray.method.contrast.unified import unified_contrast, unified_contrast_attenuated, unified_contrast_eq8

Contrast = Callable[[Tensor, Tensor], Tensor]
"""A loss of positives and negatives, its parameters bound: [B, P] and [B, P, K] to a scalar, the mean over anchors."""

CONTRASTS: Final[dict[str, Callable[..., Tensor] | type[nn.Module]]] = {
    "unified": unified_contrast,
    "unified_eq8": unified_contrast_eq8,
    "unified_attenuated": unified_contrast_attenuated,
    "info_nce": info_nce,
    "debiased_info_nce": debiased_info_nce,
    "hard_info_nce": hard_info_nce,
    "nce": NoiseContrastiveEstimation,
}
"""Functions (positives, negatives, *, parameters), or, of those that keep a state, modules built from (pairs, *,
parameters, group). Parameters are the arguments that can be given by their name alone."""


def contrast_names() -> tuple[str, ...]:
    """Names of all contrasts."""
    return tuple(CONTRASTS)


def contrast_parameters(name: str) -> frozenset[str]:
    """Names of the parameters that a contrast takes, those that have a default among them.

    Raises:
        ValueError: there is no contrast of this name.
    """
    return frozenset(_parameters(name))


def build_contrast(
    name: str, pairs: int, group: dist.ProcessGroup | None = None, **parameters: float | bool
) -> Contrast:
    """Bind the parameters of a contrast; what they may be stands with the functions of :data:`CONTRASTS`.

    Args:
        name: which contrast.
        pairs: P, ordered pairs of views, V (V - 1) of V views.
        group: ranks that share a minibatch; None for the default group, or for this process alone where there is none.
        parameters: by their names in :func:`contrast_parameters`.

    Raises:
        ValueError: there is no contrast of this name, it takes no such parameter, or it needs one more.
    """
    known = _parameters(name)
    needed = {parameter for parameter, default in known.items() if default is inspect.Parameter.empty}
    if not needed <= parameters.keys() <= known.keys():
        raise ValueError(
            f"contrast {name!r} takes {', '.join(sorted(known))} and needs {', '.join(sorted(needed)) or 'none'}: "
            f"got {', '.join(sorted(parameters)) or 'none'}"
        )
    contrast = CONTRASTS[name]
    if isinstance(contrast, type):
        stateful: Contrast = contrast(pairs, group=group, **parameters)
        return stateful
    return partial(contrast, **parameters)


def _parameters(name: str) -> dict[str, Any]:
    """Parameters of a contrast with their defaults."""
    if name not in CONTRASTS:
        raise ValueError(f"unknown contrast {name!r}: choose from {', '.join(CONTRASTS)}")
    signature = inspect.signature(CONTRASTS[name]).parameters.values()
    return {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY and p.name != "group"}
