"""Settings of `jobs/evaluate_encoder.py`: one frozen encoder, judged."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from metaug_ray.config.augmentation import AugmentationSettings
from metaug_ray.config.base import LocalPath, Location, NotNegative, Positive, Settings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.machines import MachineSettings
from metaug_ray.config.model import Precision
from metaug_ray.config.references import EncoderReference
from metaug_ray.config.storage import StorageSettings
from metaug_ray.config.tracking import TrackingSettings


class ProbeSettings(Settings):
    """The linear probe: a linear classifier on frozen representations of images without augmentation."""

    learning_rates: tuple[Positive, ...] = Field((3e-4, 1e-3, 3e-3, 1e-2), min_length=1)
    """learning rates of Adam; all are trained side by side, and the best on a held-out tenth is taken"""
    weight_decays: tuple[NotNegative, ...] = Field((1e-4, 1e-2, 1.0), min_length=1)
    """decoupled weight decays; each is tried with each learning rate"""
    epochs: int = Field(30, ge=1)
    """passes over the representations"""
    least_steps: int = Field(500, ge=1)
    """least number of steps, where there are few labels"""
    batch_size: int = Field(256, ge=1)
    """representations per step"""
    seeds: int = Field(3, ge=1, le=100)
    """number of probes, with other orders and other choices of few labels; the mean of their accuracies and its 95 %
    interval are given"""
    label_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((1.0, 0.1, 0.01), min_length=1)
    """shares of the labels to learn from"""


class AugmentedProbeSettings(Settings):
    """The full linear evaluation, as CMC's: a linear classifier trained on augmented images, by Ray Train."""

    epochs: int = Field(60, ge=1)
    """passes over the images"""
    batch_size: int = Field(256, ge=1)
    """images per step over all workers together"""
    learning_rate: Positive = 0.1
    """learning rate of SGD with momentum 0.9, at the beginning; it falls as a cosine"""
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """l2 penalty"""
    augmentation: AugmentationSettings = AugmentationSettings()
    """changes that a training image undergoes before the encoder sees it"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.augmentation.mixup < 1:
            raise ValueError(f"augmentation.mixup: got {self.augmentation.mixup:g}; labels are not mixed: leave it 1")
        return self


class EvaluateSettings(StorageSettings):
    """Judging one frozen encoder by a labelled data set."""

    encoder: EncoderReference
    """run:NAME (its last checkpoint; run:NAME@best, run:NAME@checkpoint_000000640), random:NAME (that run's encoder
    before training), or a registered one: models:/NAME@champion, models:/NAME/3"""
    train: Location
    """labelled beton to learn from"""
    test: Location
    """labelled beton to be judged by, of the same classes"""
    image_size: int | None = Field(None, ge=16, le=1024)
    """side in pixels of the square that the encoders see; default: as in training"""
    crop: float = Field(1.0, gt=0, le=1)
    """side of the central square as a share of the shorter side; 0.875 is usual for ImageNet"""
    batch_size: int = Field(100, ge=1)
    """images at a time on each worker"""
    precision: Precision = "float32"
    """arithmetic of the encoders"""
    views: bool = True
    """judge each view by itself too"""
    layers: bool = False
    """judge each layer too, its maps averaged over the image"""
    augmented_features: bool = False
    """judge features with augmented ones beside them too, z ++ a(z) (table 5); needs a run with generators"""
    knn: KnnSettings = KnnSettings()
    """k nearest neighbours"""
    probe: ProbeSettings = ProbeSettings()
    """linear probe"""
    augmented_probe: AugmentedProbeSettings | None = None
    """full linear evaluation; off by default"""
    memory: float = Field(8.0, ge=0.01, allow_inf_nan=False)
    """GiB of representations that a classifier may hold, on its GPU where it has one; more are read from the cache
    again for each epoch, in a less random order"""
    plots: bool = True
    """draw representations, confusions and nearest neighbours"""
    cache: LocalPath = Path("~/metaug_ray/representations")
    """folder of this machine for representations, which another evaluation of the same encoder and data reads again"""
    compute: MachineSettings = MachineSettings()
    """machines"""
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    """MLflow"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.augmented_features and not self.encoder.startswith(("run:", "random:")):
            raise ValueError(
                f"augmented_features: registered encoders have no generators (got {self.encoder!r}); name a run"
            )
        self.compute.check_readable(self.train, self.test)
        return self
