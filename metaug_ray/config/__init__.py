"""Everything a user can set, as frozen pydantic models that refuse unknown fields and values out of range.

One file for each command (`prepare`, `pretrain`, `evaluate`, `register`, `compare`), and one for each part that a run
has or that several commands share. `recorded` reads what earlier versions wrote.
"""

from metaug_ray.config.augmentation import AugmentationSettings, ColorJitterSettings, RandAugmentSettings
from metaug_ray.config.compare import CompareSettings
from metaug_ray.config.evaluate import AugmentedProbeSettings, EvaluateSettings, ProbeSettings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.method import MethodSettings
from metaug_ray.config.model import ModelSettings
from metaug_ray.config.prepare import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.register import RegisterSettings

__all__ = [
    "AugmentationSettings",
    "AugmentedProbeSettings",
    "ColorJitterSettings",
    "CompareSettings",
    "EncodingSettings",
    "EvaluateSettings",
    "KnnSettings",
    "MethodSettings",
    "ModelSettings",
    "PrepareSettings",
    "PretrainSettings",
    "ProbeSettings",
    "RandAugmentSettings",
    "RegisterSettings",
    "SourceSettings",
]
