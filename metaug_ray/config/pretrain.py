"""Settings of `jobs/imagenet_resnet50.py`: one pre-training run."""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from metaug_ray.choices import OrderKind
from metaug_ray.config.augmentation import AugmentationSettings
from metaug_ray.config.bank import BankSettings
from metaug_ray.config.base import NAME_RULE, RUN_NAME, Location, Positive, Settings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.machines import MachineSettings
from metaug_ray.config.method import MetaSettings, MethodSettings
from metaug_ray.config.model import ModelSettings
from metaug_ray.config.storage import StorageSettings
from metaug_ray.config.support import SupportSettings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.config.training import TrainingSettings


class DataSettings(Settings):
    """What is trained on."""

    beton: Location
    """path or URI of the beton that jobs/prepare_data.py wrote; its manifest lies beside it"""
    image_size: int = Field(224, ge=16, le=1024)
    """side in pixels of the square that the encoders see"""
    augmentation: AugmentationSettings = AugmentationSettings(crop_scale=(0.08, 1.0))
    """changes that an image undergoes before the encoders see it"""
    second_augmentation: AugmentationSettings | None = None
    """changes that the second crop undergoes, given whole; default: as the first"""
    order: OrderKind = "permutation"
    """how an epoch's images are shuffled: by a permutation, of which each worker computes what it needs, or by
    sorting all of them, as versions before 0.3.0 did; a run that is resumed keeps its own where nothing is said"""


class ComputeSettings(MachineSettings):
    """Where and on what a run trains. May change when it is resumed."""

    min_workers: int | None = Field(None, ge=1)
    """least number of workers, which makes the run elastic: when nodes are lost it goes on with as many as there is
    room for and the batch divides by"""
    compile: bool = False
    """torch.compile the encoders and, but with sync_batch_norm, the tangents of the meta step"""
    channels_last: bool = True
    """keep the encoders in channels_last memory format"""
    max_failures: int = Field(20, ge=0)
    """failures of workers, over the whole run, after each of which it goes on from the last checkpoint"""
    max_failures_in_row: int = Field(5, ge=0)
    """failures and elastic changes without a new checkpoint in between after which the run stops: what fails again and
    again is not mended by trying"""
    max_driver_restarts: int = Field(0, ge=0)
    """times that the driver begins again from the last checkpoint, once a cluster answers, where it or the cluster was
    lost; for machines on which nothing else gives the command again"""


class CheckpointSettings(Settings):
    """When checkpoints are written and which stay. May change when a run is resumed."""

    every_steps: int | None = Field(None, ge=1)
    """write one each n steps; none: by the clock"""
    every_minutes: Positive | None = 30.0
    """write one each n minutes; none: by steps"""
    keep: int = Field(2, ge=1, le=1000)
    """number of the last checkpoints that stay; the best one (health.best_by) stays besides"""
    asynchronous: bool = True
    """write while training goes on, from a copy in memory"""
    grace_seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    """seconds for a checkpoint that SIGTERM asks for before the run ends; 0: it ends at once, as whoever stops a job of
    Ray waits for three seconds only"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.every_steps is None and self.every_minutes is None:
            raise ValueError("every_minutes: set it or every_steps, or a failure would lose the run")
        return self


class OnlineKnnSettings(KnnSettings):
    """The kNN accuracy of the encoders while they train, and RankMe, which needs no labels."""

    every: int = Field(5, ge=0)
    """epochs between evaluations by kNN and RankMe and similarity histograms; 0: none"""
    references_beton: Location | None = None
    """labelled beton whose images vote; default: the training beton, if it has labels"""
    beton: Location | None = None
    """labelled beton whose images are classified; default: images of the one that votes, kept from the vote"""
    references: int = Field(10_000, ge=10)
    """images that vote, and that RankMe is measured on; where there are no labels, RankMe alone"""
    queries: int = Field(2_000, ge=10)
    """images that are classified"""


KNN_ACCURACY: Final = "knn/accuracy"
"""Metric: share of the queries that kNN gets right."""
RANKME: Final = "rankme/mean"
"""Metric: effective rank of the representations, the mean over the views."""
_BEST_BY: Final[Mapping[str, str]] = {"knn": KNN_ACCURACY, "rankme": RANKME}


class HealthSettings(Settings):
    """What is watched during training. May change when a run is resumed."""

    log_every: int = Field(50, ge=1)
    """steps between lines in the log, and between values in MLflow"""
    knn: OnlineKnnSettings = OnlineKnnSettings()
    """kNN accuracy and RankMe of the encoders"""
    best_by: Literal["knn", "rankme"] | None = None
    """what makes a checkpoint the best: kNN accuracy, or RankMe, which needs no labels; default: kNN accuracy, if it is
    measured"""
    collapse_below: float = Field(0.1, ge=0, lt=1)
    """spread of the features (1: even over the sphere, 0: all the same) below which a collapse is reported"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.best_by is not None and not self.knn.every:
            raise ValueError(
                f"best_by: {self.best_by} is measured every health.knn.every epochs, and that is 0, never; set "
                "health.knn.every, or leave health.best_by out"
            )
        return self

    @property
    def best_metric(self) -> str:
        """The metric that the best checkpoint is the best by; one without labels may not be measured."""
        return _BEST_BY[self.best_by or "knn"]


class PretrainSettings(StorageSettings):
    """One pre-training run. The defaults are the paper's ImageNet ResNet-50 setting, on CMC's basis."""

    name: str = Field("imagenet_resnet50", max_length=100)
    """name of the run: the same one again resumes it"""
    fork: str | None = Field(None, min_length=1)
    """begin with the weights of this other run: a warm start, from step 0, with other settings than model.*; generators
    of another size and the bank of other data begin anew"""
    register_as: str | None = Field(None, pattern=f"^{RUN_NAME}$")
    """publish the encoder under this name in MLflow's registry when the run is finished"""
    seed: int = Field(0, ge=0, lt=2**31)
    """random seed: it fixes the initial weights, the order of the images, their augmentations and the negatives"""
    data: DataSettings
    """images"""
    model: ModelSettings = ModelSettings()
    """networks"""
    method: MethodSettings = MethodSettings()
    """loss and generators"""
    bank: BankSettings = BankSettings()
    """memory bank, of method.targets bank"""
    support: SupportSettings = SupportSettings()
    """support set, of method.targets neighbours"""
    training: TrainingSettings = TrainingSettings()
    """optimisation"""
    compute: ComputeSettings = ComputeSettings()
    """machines"""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """checkpoints"""
    health: HealthSettings = HealthSettings()
    """measurements during training"""
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    """MLflow"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(RUN_NAME, self.name):
            raise ValueError(f"name: got {self.name!r}; expected {NAME_RULE}, as it names a folder")
        if self.fork is not None and not re.fullmatch(RUN_NAME, self.fork):
            raise ValueError(f"fork: got {self.fork!r}; expected the name of a run: {NAME_RULE}")
        if self.fork == self.name:
            raise ValueError(f"fork: a run cannot begin with its own weights (got {self.fork!r}); give a new name")
        self.compute.check_readable(self.data.beton, self.health.knn.references_beton, self.health.knn.beton)
        least = self.model.minimum_size
        if self.data.image_size < least:
            raise ValueError(
                f"data.image_size: the {self.model.encoder} encoder needs {least} px"
                f"{'' if self.model.small_images else ' or model.small_images'} (got {self.data.image_size})"
            )
        self._check_form()
        compute = self.compute
        if compute.min_workers is not None and (compute.workers is None or compute.min_workers > compute.workers):
            raise ValueError(
                f"compute.min_workers: got {compute.min_workers}; expected at most compute.workers "
                f"(got {compute.workers}), which elastic training needs too"
            )
        most = compute.workers or 1
        self.dividing(range(compute.min_workers or most, most + 1))
        return self

    def _check_form(self) -> None:
        """Whether what is set is of the form that is trained."""
        targets = self.method.targets
        prediction = self.model.model_dump(include={"prediction_hidden_size"}, exclude_defaults=True)
        for owner, group, given in (
            ("bank", "bank", self.bank.model_dump(exclude_defaults=True)),
            ("neighbours", "support", self.support.model_dump(exclude_defaults=True)),
            ("neighbours", "model", prediction),
        ):
            if given and targets != owner:
                name, value = next(iter(given.items()))
                raise ValueError(
                    f"{group}.{name}: {value} is a setting of method.targets {owner}, and method.targets is {targets}; "
                    "leave one of them out"
                )
        if self.data.second_augmentation is not None and self.model.crops == 1:
            raise ValueError(
                "data.second_augmentation: no view shows the second crop (model.views is "
                f"{','.join(self.model.views)}); leave it out, or add a view such as {self.model.views[0]}.2"
            )
        if targets != "bank" and self.method.contrast == "nce":
            raise ValueError(
                f"method.contrast: nce tells images from draws of the memory bank, and method.targets is {targets}; "
                "use info_nce"
            )
        if targets == "neighbours" and self.training.updates_per_batch > 1:
            raise ValueError(
                f"training.updates_per_batch: got {self.training.updates_per_batch}, but with method.targets "
                "neighbours an image's own features of the step before would be its nearest neighbours; leave it out"
            )
        self._check_meta()
        if targets == "neighbours" and self.support.size < self.training.batch_size:
            raise ValueError(
                f"support.size: {self.support.size} features are fewer than the {self.training.batch_size} of a batch "
                "(training.batch_size), which enter it at each step"
            )

    def _check_meta(self) -> None:
        meta, training = self.method.meta, self.training
        if self.method.generators and meta.keep_activations:
            for name, given in (
                ("training.accumulation", training.accumulation > 1),
                ("compute.compile", self.compute.compile),
            ):
                if given:
                    raise ValueError(
                        f"method.meta.keep_activations: with {name} activations cannot be kept; leave {name} out, or "
                        "give --no-method.meta.keep-activations"
                    )
        if not (self.method.generators and meta.schedule == "lookahead"):
            return
        rate = meta.virtual_learning_rate
        if rate != MetaSettings().virtual_learning_rate and {training.encoder.kind, training.head.kind} == {"sgd"}:
            raise ValueError(
                f"method.meta.virtual_learning_rate: got {rate:g}, but with schedule lookahead and sgd the virtual "
                "step is the encoders' own (training.encoder.learning_rate); leave it out"
            )

    @property
    def variant(self) -> str:
        """The papers' name for the method, and how many encoders there are where the papers have another number."""
        encoders = len(self.model.encoders)
        usual = len(self.model.views) if self.method.targets == "bank" else 1
        more = "" if encoders == usual else f", {encoders} encoder{'' if encoders == 1 else 's'}"
        return self.method.variant + more

    @property
    def crop_augmentations(self) -> tuple[AugmentationSettings, ...]:
        """What is done to each crop of an image that the views show."""
        first, second = self.data.augmentation, self.data.second_augmentation
        return (first, second or first)[: self.model.crops]

    def ordered_by(self, kind: OrderKind) -> Self:
        """The same with the images of an epoch in another order, unless `data.order` was given."""
        if "order" in self.data.model_fields_set:
            return self
        return self.model_copy(update={"data": self.data.model_copy(update={"order": kind})})

    def tracked_at(self, uri: str) -> Self:
        """The same with MLflow at another address."""
        return self.model_copy(update={"tracking": self.tracking.model_copy(update={"uri": uri})})

    def steps_per_epoch(self, samples: int) -> int:
        """Steps of an epoch over so many images; its remainder is dropped."""
        return samples // self.training.batch_size * self.training.updates_per_batch

    def dividing(self, counts: Iterable[int]) -> tuple[int, ...]:
        """Those numbers of workers among which the batch divides evenly.

        Raises:
            ValueError: there are none.
        """
        found, refused = [], None
        for count in counts:
            try:
                self.images_per_worker(count)
                found.append(count)
            except ValueError as error:
                refused = error
        if not found:
            raise refused or ValueError("compute.workers: there are none")
        return tuple(found)

    def images_per_worker(self, workers: int) -> int:
        """A worker's share of the batch.

        Raises:
            ValueError: the batch does not divide evenly among them, or into parts of accumulation.
        """
        batch, accumulation = self.training.batch_size, self.training.accumulation
        share, rest = divmod(batch, workers * accumulation)
        least = self._least_images(workers)
        if rest or share < least:
            parts = f" in {accumulation} parts" if accumulation > 1 else ""
            short = f" and at least {least} images for batch norm" if least > 1 else ""
            nearest = max(least, round(batch / (workers * accumulation))) * workers * accumulation
            most = batch // (least * accumulation)
            fewer = f", or at most {_workers(most)}" if 0 < most < workers else ""
            if not rest and least > 1 and workers > 1:
                fewer += ", or training.sync_batch_norm"
            raise ValueError(
                f"training.batch_size: {batch} images among {_workers(workers)}{parts} leave each "
                f"{batch / (workers * accumulation):g}; expected a whole number{short}, such as {nearest}{fewer}"
            )
        self._check_share(share * accumulation, workers)
        if min(augmentation.mixup for augmentation in self.crop_augmentations) < 1 and share * accumulation % 2:
            raise ValueError(
                f"training.batch_size: mixup blends neighbours, and {batch} images among {_workers(workers)} leave "
                f"each {share * accumulation}, an odd number; use a multiple of {2 * workers}"
            )
        return share * accumulation

    def _check_share(self, images: int, workers: int) -> None:
        """Whether a worker's images have the parts that tangents are made of."""
        parts, least = self.method.meta.parts, self._least_images(workers)
        if self.method.generators and (images % parts or images // parts < least):
            short = f" of at least {least}" if least > 1 else ""
            raise ValueError(
                f"method.meta.share: got {self.method.meta.share:g}, and the {images} images of each worker do not "
                f"divide into {parts} parts{short}; use a larger share, or another training.batch_size"
            )

    def _least_images(self, workers: int) -> int:
        """Images that a part of a worker's share must have at least, for batch norm."""
        synchronized = self.training.sync_batch_norm and workers > 1
        head = self.model.head.has_batch_norm or self.method.targets == "neighbours"
        encoder = self.model.one_value_per_channel(self.data.image_size)
        return 2 if not synchronized and (self.method.generators or head or encoder) else 1


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"
