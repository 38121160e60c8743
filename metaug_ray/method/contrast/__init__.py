"""Contrasts: pure functions from similarities to a scalar loss, the mean over anchors.

All take the same two arguments, for B anchors, P ordered pairs of views and K negatives per pair:

    positives  d+ in [0, 1], [B, P]
    negatives  d- in [0, 1], [B, P, K] or, pairs outer, [B, P * K]

and reduce in float32 at least. To add one, write its function with its parameters as keywords, and enter it in
:data:`~metaug_ray.method.contrast.build.CONTRASTS`; `metaug_ray.config.contrasts` has its settings.
"""

from metaug_ray.method.contrast.build import Contrast, build_contrast, contrast_names, contrast_parameters
from metaug_ray.method.contrast.infonce import debiased_info_nce, hard_info_nce, info_nce
from metaug_ray.method.contrast.noise_contrastive import NoiseContrastiveEstimation, nce, nce_log_normalizer
from metaug_ray.method.contrast.unified import unified_contrast, unified_contrast_attenuated, unified_contrast_eq8

__all__ = [
    "Contrast",
    "NoiseContrastiveEstimation",
    "build_contrast",
    "contrast_names",
    "contrast_parameters",
    "debiased_info_nce",
    "hard_info_nce",
    "info_nce",
    "nce",
    "nce_log_normalizer",
    "unified_contrast",
    "unified_contrast_attenuated",
    "unified_contrast_eq8",
]
