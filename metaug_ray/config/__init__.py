"""Everything a user can set, as frozen pydantic models that refuse unknown fields and values out of range.

One file for each command (`prepare`, `preflight`, `pretrain`, `evaluate`, `register`, `compare`), and one for each part
that a run has or that several commands share. `recorded` reads what earlier versions wrote.
"""

from metaug_ray.config.augmentation import AugmentationSettings, ColorJitterSettings, RandAugmentSettings
from metaug_ray.config.bank import BankSettings
from metaug_ray.config.base import Settings, explain
from metaug_ray.config.compare import CompareSettings
from metaug_ray.config.evaluate import AugmentedProbeSettings, EvaluateSettings, ProbeSettings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.machines import MachineSettings
from metaug_ray.config.method import MetaSettings, MethodSettings
from metaug_ray.config.model import ModelSettings
from metaug_ray.config.plan import CapacitySettings, HostSettings, PlanSettings
from metaug_ray.config.preflight import CheckSettings, PreflightSettings
from metaug_ray.config.prepare import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.config.pretrain import (
    CheckpointSettings,
    ComputeSettings,
    DataSettings,
    HealthSettings,
    PretrainSettings,
)
from metaug_ray.config.register import RegisterSettings
from metaug_ray.config.sweep import ComparisonSettings, Parameter, RefitSettings, SearchSettings, SweepSettings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.config.training import OptimizerSettings, ScheduleSettings, TrainingSettings

__all__ = [
    "AugmentationSettings",
    "AugmentedProbeSettings",
    "BankSettings",
    "CapacitySettings",
    "CheckSettings",
    "CheckpointSettings",
    "ColorJitterSettings",
    "CompareSettings",
    "ComparisonSettings",
    "ComputeSettings",
    "DataSettings",
    "EncodingSettings",
    "EvaluateSettings",
    "HealthSettings",
    "HostSettings",
    "KnnSettings",
    "MachineSettings",
    "MetaSettings",
    "MethodSettings",
    "ModelSettings",
    "OptimizerSettings",
    "Parameter",
    "PlanSettings",
    "PreflightSettings",
    "PrepareSettings",
    "PretrainSettings",
    "ProbeSettings",
    "RandAugmentSettings",
    "RefitSettings",
    "RegisterSettings",
    "ScheduleSettings",
    "SearchSettings",
    "Settings",
    "SourceSettings",
    "SweepSettings",
    "TrackingSettings",
    "TrainingSettings",
    "explain",
]
