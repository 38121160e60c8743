"""Everything a user can set, as frozen pydantic models that refuse unknown fields and values out of range."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Settings(BaseModel):
    """Base of all settings: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def explain(error: ValidationError) -> str:
    """A validation error as one line per field: the field, the value and what is allowed."""
    lines = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        # Of a tuple whose every entry is wrong pydantic says besides that it has none.
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in error.errors()):
            continue
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = "is missing, and has no default"
        value = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
        # A model's own checks begin with the field they are about.
        separator = "." if problem["type"] == "value_error" else ": "
        lines.append(f"{field}{separator}{message}{value}" if field else message)
    return "\n".join(lines)


Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=2)]
SourceKind = Literal["imagefolder", "parquet", "cifar10", "cifar100", "stl10", "tiny_imagenet", "shapes"]

_SPLITS: dict[str, tuple[str, ...]] = {
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "stl10": ("unlabeled", "train", "test", "train+unlabeled"),
    "tiny_imagenet": ("train", "val", "test"),
}


def matching_files(pattern: str) -> list[Path]:
    """Files that match a glob, sorted; `**` stands for any number of folders."""
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


class SourceSettings(Settings):
    """Where images come from."""

    kind: SourceKind
    """layout of the data set on disk; `shapes` is generated"""
    path: str | None = Field(None, min_length=1)
    """folder (imagefolder, cifar10, cifar100, stl10, tiny_imagenet), or file, folder or glob (parquet)"""
    split: str | None = None
    """part of the data set; default the first of: cifar train, test; stl10 unlabeled, train, test, train+unlabeled;
    tiny_imagenet train, val, test"""
    unlabelled: bool = False
    """take the images without labels (imagefolder: every image below the folder)"""
    image_column: str = "image"
    """parquet: column of the images"""
    label_column: str = "label"
    """parquet: column of the labels"""
    count: int = Field(10_000, ge=10)
    """shapes: number of images"""
    size: int = Field(64, ge=16, le=512)
    """shapes: side in pixels"""
    seed: int = Field(0, ge=0)
    """shapes: another seed gives other images"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "shapes":
            if self.path is not None:
                raise ValueError(f"path: shapes are generated and read no path (got {self.path!r}); leave it out")
        elif self.path is None:
            raise ValueError(f"path: the source {self.kind!r} needs the path of its files")
        elif not Path(self.path).exists() and not (self.kind == "parquet" and matching_files(self.path)):
            raise ValueError(f"path: {self.path} does not exist")
        allowed = _SPLITS.get(self.kind, ())
        if self.split is not None and self.split not in allowed:
            choice = f"choose from {', '.join(allowed)}" if allowed else "it has none; name the files by the path"
            raise ValueError(f"split: the source {self.kind!r} has no split {self.split!r}; {choice}")
        if self.unlabelled and self.kind not in ("imagefolder", "parquet"):
            raise ValueError(f"unlabelled: only imagefolder and parquet can drop labels, not {self.kind!r}")
        return self

    @property
    def resolved_split(self) -> str | None:
        """The split, by default the first that the source has."""
        return self.split or next(iter(_SPLITS.get(self.kind, ())), None)


EncodingKind = Literal["raw", "jpeg", "mixed"]

# Kind and greatest side.
_PRESETS: dict[str, tuple[EncodingKind, int]] = {
    "imagenet": ("jpeg", 512),
    "imagenet-fast": ("mixed", 256),
    "small": ("raw", 128),
}


class EncodingSettings(Settings):
    """How images are stored in a beton; what is left out comes from the preset."""

    preset: Literal["imagenet", "imagenet-fast", "small"]
    """imagenet: JPEG, quality 90, at most 512 px; imagenet-fast: half JPEG, half raw, at most 256 px; small: raw
    pixels, at most 128 px"""
    kind: EncodingKind | None = None
    """raw pixels, JPEG, or a share of each"""
    max_resolution: int | None = Field(None, ge=8, le=4096)
    """longer side in pixels; larger images are shrunk"""
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    """1 to 100; default 90"""
    jpeg_fraction: float | None = Field(None, gt=0, lt=1)
    """share of the images that `mixed` stores as JPEG; default 0.5"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind = self.resolved_kind
        if kind == "raw" and self.jpeg_quality is not None:
            raise ValueError(f"jpeg_quality: raw pixels have none (got {self.jpeg_quality}); set kind to jpeg or mixed")
        if kind != "mixed" and self.jpeg_fraction is not None:
            raise ValueError(f"jpeg_fraction: only mixed has one, not {kind} (got {self.jpeg_fraction})")
        return self

    @property
    def resolved_kind(self) -> EncodingKind:
        """The kind that was set, or the preset's."""
        return self.kind or _PRESETS[self.preset][0]

    @property
    def resolved_max_resolution(self) -> int:
        """The greatest side that was set, or the preset's, in pixels."""
        return self.max_resolution or _PRESETS[self.preset][1]


class PrepareSettings(Settings):
    """Writing one beton."""

    source: SourceSettings
    encoding: EncodingSettings
    output: Path
    """beton to write, such as data/train.beton; its manifest is written beside it"""
    workers: int | None = Field(None, ge=1, le=1024)
    """processes that decode and encode; default one for every CPU that this process may use"""
    overwrite: bool = False
    """replace an existing beton, once the new one is verified"""
    skip_unreadable: bool = False
    """leave out images that cannot be decoded and list them in the manifest, instead of stopping"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.output.suffix != ".beton":
            raise ValueError(f"output: {self.output} must end in .beton")
        return self


class ColorJitterSettings(Settings):
    """Random brightness, contrast, saturation and hue, in a random order, as torchvision's `ColorJitter`."""

    probability: Probability = 0.8
    """share of the images that are changed"""
    brightness: Strength = 0.4
    """factor from [max(0, 1 - x), 1 + x]"""
    contrast: Strength = 0.4
    """factor from [max(0, 1 - x), 1 + x]"""
    saturation: Strength = 0.4
    """factor from [max(0, 1 - x), 1 + x]"""
    hue: float = Field(0.1, ge=0, le=0.5)
    """turn of the hue circle from [-x, x]"""


class RandAugmentSettings(Settings):
    """RandAugment (Cubuk et al., 2019) with torchvision's fourteen operations and 31 magnitudes."""

    operations: int = Field(2, ge=1, le=14)
    """operations applied to each image, one after the other"""
    magnitude: int = Field(9, ge=0, le=30)
    """strength of each, 0 to 30"""


class AugmentationSettings(Settings):
    """What pre-training does to an image (the paper's tables 4 and 6); the defaults are CMC's."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """least and greatest share of the area that a random resized crop keeps (ImageNet with ResNet: 0.08, 1)"""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """least and greatest width / height of the crop"""
    flip: Probability = 0.5
    """share of the images that are mirrored"""
    rotation: float = Field(0.0, ge=0, le=180)
    """greatest angle in degrees, either way; corners become black"""
    color_jitter: ColorJitterSettings | None = None
    """random colours; off by default"""
    grayscale: Probability = 0.0
    """share of the images that lose their colour"""
    rand_augment: RandAugmentSettings | None = None
    """off by default"""
    mixup: float = Field(1.0, ge=0.5, le=1)
    """least share of the image itself when a neighbour is mixed into it (DACL's alpha); 1 is off"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, (low, high), least, most in (
            ("crop_scale", self.crop_scale, 0.001, 1.0),
            ("crop_ratio", self.crop_ratio, 0.1, 10.0),
        ):
            if not least <= low <= high <= most:
                raise ValueError(f"{name}: got {low}, {high}; expected {least:g} <= least <= greatest <= {most:g}")
        return self


View = Literal["rgb", "l", "ab", "y", "dbdr"]
ContrastName = Literal[
    "unified", "unified_eq8", "unified_attenuated", "info_nce", "debiased_info_nce", "hard_info_nce", "nce"
]
Positive = Annotated[float, Field(gt=0)]


REGISTERED_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class DataSettings(Settings):
    """What is trained on."""

    beton: str = Field(min_length=1)
    """path or URI of the beton that jobs/prepare_data.py wrote; its manifest lies beside it"""
    image_size: int = Field(224, ge=16, le=1024)
    """side in pixels of the square that the encoders see"""
    augmentation: AugmentationSettings = AugmentationSettings(crop_scale=(0.08, 1.0))
    """what happens to an image before"""


class ModelSettings(Settings):
    """The networks: one encoder and one projection head per view."""

    views: tuple[View, ...] = ("rgb", "l", "ab")
    """colour views that are contrasted, at least two: rgb,l,ab is the paper's choice, l,ab and y,dbdr are CMC's"""
    encoder: Literal["resnet18", "resnet50", "conv", "fc"] = "resnet50"
    """conv and fc are the halves of a split AlexNet"""
    width: float = 1.0
    """multiple of all channels: 0.5, 1 or 2"""
    small_images: bool = False
    """a stem that does not shrink the image, for images of 32 to 64 px"""
    feature_size: int = Field(128, ge=2, le=4096)
    """D, numbers in a feature"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.views)) != len(self.views) or len(self.views) < 2:
            raise ValueError(f"views: contrast needs at least two different views (got {', '.join(self.views)})")
        if self.width not in (0.5, 1.0, 2.0):
            raise ValueError(f"width: choose 0.5, 1 or 2 (got {self.width:g})")
        return self


class MetaSettings(Settings):
    """How the generators are trained (Algorithm 1)."""

    schedule: Literal["fused", "separate"] = "fused"
    """fused: with the encoders, on the same minibatch; separate: after them, on a minibatch of their own"""
    mode: Literal["jvp", "difference"] = "jvp"
    """how the second-order part is made: exactly, or by finite differences (a tenth faster)"""
    virtual_learning_rate: Positive = 1e-3
    """l, step size of the virtual step (Eq. 3)"""
    every: int = Field(1, ge=1)
    """train the generators on each n-th step"""


_UNIFIED: dict[ContrastName, str] = {"unified": "", "unified_eq8": " (Eq. 8)", "unified_attenuated": " (Eq. 9)"}


class MethodSettings(Settings):
    """The loss and the generators. MetAug is unified + generators; without generators it is "only OUCL"; info_nce +
    generators is "only MAG"; nce or info_nce without them is CMC."""

    contrast: ContrastName = "unified"
    """unified: OUCL, Eq. 10; unified_eq8, unified_attenuated: its ablations, Eq. 8 and 9; info_nce, nce: CMC;
    debiased_info_nce, hard_info_nce: CMC + Debiased, CMC + Hard"""
    beta: Positive = 16.0
    """unified: inverse temperature; the paper searches 2 to 256"""
    gamma: float = Field(0.25, ge=0, le=1)
    """unified and unified_attenuated: relaxation factor; the paper searches 0.15 to 0.50"""
    eq8_margin: float = Field(0.25, ge=-1, le=1)
    """unified_eq8: lambda"""
    phi: float = Field(6.0, ge=1)
    """unified_attenuated: attenuation of the weights; best at 6 in figure 3"""
    centered: bool = False
    """unified, unified_eq8 and unified_attenuated: compare similarities less their anchor's mean negative; not in the
    paper"""
    temperature: Positive = 0.07
    """info_nce, debiased_info_nce, hard_info_nce, nce: temperature of the cosines"""
    class_prior: float = Field(0.1, ge=0, lt=1)
    """debiased_info_nce, hard_info_nce: chance that a negative is of the anchor's class"""
    concentration: float = Field(1.0, ge=0)
    """hard_info_nce: how much harder negatives weigh"""
    generators: bool = True
    """meta feature augmentation generators (MAG), one per view"""
    generator_hidden_size: int = Field(2048, ge=8, le=65_536)
    """units of the generators' two hidden layers"""
    delta: float = Field(1e-5, ge=0)
    """weight of the loss of augmented features (Eq. 11); the paper searches 1e-1 to 1e-8"""
    alpha: float = Field(1e-13, ge=0)
    """weight of the margin regulariser in the generators' objective (Eq. 6); the paper searches 1e-3 to 1e-17"""
    margin: Literal["large", "medium", "small"] = "large"
    """kind of the injected margins (appendix A.2)"""
    meta: MetaSettings = MetaSettings()
    """how the generators are trained"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.centered and self.contrast not in _UNIFIED:
            raise ValueError(f"centered: only {', '.join(_UNIFIED)} can be, not {self.contrast}; leave it out")
        return self

    @property
    def variant(self) -> str:
        """The paper's name for this combination of contrast and generators."""
        if self.contrast in _UNIFIED:
            name = ("MetAug" if self.generators else "only OUCL") + _UNIFIED[self.contrast]
            return f"{name}, centered" if self.centered else name
        baseline = {
            "nce": "CMC (NCE)",
            "info_nce": "CMC",
            "debiased_info_nce": "CMC + Debiased",
            "hard_info_nce": "CMC + Hard",
        }[self.contrast]
        if not self.generators:
            return baseline
        return "only MAG" if self.contrast == "info_nce" else f"only MAG on {baseline}"


class BankSettings(Settings):
    """The memory bank: one feature of every image in every view."""

    negatives: int = Field(4096, ge=1)
    """K, negatives per anchor"""
    sampling: Literal["shared", "per_anchor"] = "shared"
    """one pool of negatives per step, or independent draws for every anchor (slower)"""
    momentum: float = Field(0.5, ge=0, lt=1)
    """share of the old row that a refresh keeps"""
    initial: Literal["random", "features"] = "random"
    """rows before the first epoch: random unit vectors, as CMC's, or features of the untrained encoders, for which they
    see each image once more"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the stored rows; bfloat16 halves the memory"""


class OptimizerSettings(Settings):
    """One optimiser; the defaults are the authors'."""

    kind: Literal["sgd", "adam", "lars"] = "sgd"
    """sgd has momentum; adam decays weights as AdamW; lars scales sgd by layer, for large batches"""
    learning_rate: Positive = 0.03
    """at the full height of the schedule"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """sgd and lars"""
    weight_decay: float = Field(1e-4, ge=0, lt=1)
    """l2 penalty (sgd, lars), or decoupled decay (adam)"""
    decay_norm_and_bias: bool = True
    """decay the parameters of batch norm and biases too; lars never scales those"""


class ScheduleSettings(Settings):
    """The learning rate over the run, as a factor of each optimiser's."""

    kind: Literal["step", "cosine", "constant"] = "step"
    """what follows the warm-up"""
    warmup_epochs: float = Field(0.0, ge=0)
    """epochs of linear rise from 0"""
    milestones: tuple[float, ...] = (120.0, 160.0, 200.0)
    """step: epochs at which the factor shrinks"""
    decay: float = Field(0.1, gt=0, lt=1)
    """step: by how much; cosine: unused"""
    final: float = Field(0.0, ge=0, lt=1)
    """cosine: factor at the end"""


class TrainingSettings(Settings):
    """How long and with what optimisers."""

    epochs: int = Field(240, ge=1, le=100_000)
    """passes over the data"""
    batch_size: int = Field(128, ge=2)
    """images per step over all workers together"""
    accumulation: int = Field(1, ge=1)
    """parts in which each worker takes its share of a batch through the encoders, to save memory; batch norm sees a
    part"""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """of the encoders' arithmetic; bfloat16 is mixed precision (autocast)"""
    encoder: OptimizerSettings = OptimizerSettings()
    """of the encoders"""
    head: OptimizerSettings = OptimizerSettings()
    """of the projection heads"""
    generator: OptimizerSettings = OptimizerSettings()
    """of the generators"""
    schedule: ScheduleSettings = ScheduleSettings()
    """of all learning rates"""
    clip_norm: Positive | None = None
    """greatest l2 norm of the gradient of encoders and heads, and of that of the generators; none: no clipping"""
    nonfinite_limit: int = Field(20, ge=1)
    """steps in a row with a loss or gradient that is not finite after which the run stops; each is skipped and
    counted"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: got {self.schedule.warmup_epochs:g}, more than the {self.epochs} epochs"
            )
        if (
            list(self.schedule.milestones) != sorted(set(self.schedule.milestones))
            or min(self.schedule.milestones, default=0) < 0
        ):
            raise ValueError(
                f"schedule.milestones: got {', '.join(f'{m:g}' for m in self.schedule.milestones)}; "
                "expected epochs in rising order"
            )
        return self


class MachineSettings(Settings):
    """Where and on what a job runs."""

    address: str | None = Field(None, min_length=1)
    """of the Ray cluster; default RAY_ADDRESS (set in a submitted job), else the one that this machine is part of, else
    one for this job alone"""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """auto: GPUs if the cluster has any"""
    workers: int | None = Field(None, ge=1, le=4096)
    """default: one for each GPU of the cluster, or one for each node without GPUs"""
    cpus_per_worker: int | None = Field(None, ge=1, le=1024)
    """CPUs that decode images for a worker, and compute where there is no GPU; default an equal share of a node's"""
    staging: Path | None = None
    """folder on each node's own disk to which betons are copied once; default: read where they lie (a URI needs it)"""

    def check_readable(self, *betons: str | None) -> None:
        """Refuse URIs that no worker could read.

        Raises:
            ValueError: with what to set.
        """
        for beton in betons:
            if beton is not None and "://" in beton and self.staging is None:
                raise ValueError(f"compute.staging: {beton} is not a local file, so say where nodes may copy it")


class ComputeSettings(MachineSettings):
    """Where and on what it runs. May change when a run is resumed."""

    min_workers: int | None = Field(None, ge=1)
    """elastic: go on with as few as these when nodes are lost; the batch must divide by every number up to workers"""
    compile: bool = False
    """torch.compile the encoders"""
    channels_last: bool = True
    """memory format of the encoders"""
    max_failures: int = Field(20, ge=0)
    """failures of workers, over the whole run, after each of which it goes on from the last checkpoint"""
    max_failures_in_row: int = Field(5, ge=0)
    """of these, and of elastic changes, how many without a new checkpoint in between: what fails again and again is not
    mended by trying"""


class CheckpointSettings(Settings):
    """When checkpoints are written and which stay. May change when a run is resumed."""

    storage: str = Field("~/metaug_ray/runs", min_length=1)
    """folder or URI (s3://...) for all runs; with several nodes one that all of them reach"""
    every_steps: int | None = Field(None, ge=1)
    """write one each n steps; none: by the clock"""
    every_minutes: Positive | None = 30.0
    """write one each n minutes; none: by steps"""
    keep: int = Field(2, ge=1, le=1000)
    """how many of the last stay; the one with the best kNN accuracy stays besides"""
    asynchronous: bool = True
    """write while training goes on, from a copy in memory"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.every_steps is None and self.every_minutes is None:
            raise ValueError("every_minutes: set it or every_steps, or a failure would lose the run")
        return self


class HealthSettings(Settings):
    """What is watched during training. May change when a run is resumed."""

    log_every: int = Field(50, ge=1)
    """steps between lines in the log, and between values in MLflow"""
    knn_every: int = Field(5, ge=0)
    """epochs between kNN evaluations and similarity histograms; 0: none"""
    knn_beton: str | None = Field(None, min_length=1)
    """labelled beton whose images are classified; default: images of the training beton, if it has labels"""
    knn_references: int = Field(10_000, ge=10)
    """labelled images of the training beton that vote"""
    knn_queries: int = Field(2_000, ge=10)
    """images that are classified"""
    knn_neighbours: int = Field(20, ge=1)
    """k"""
    knn_temperature: Positive = 0.07
    """of the votes' weights exp(cosine / t) (Wu et al. 2018)"""
    collapse_below: float = Field(0.1, ge=0, lt=1)
    """spread of the features (1: even over the sphere, 0: all the same) below which a collapse is reported"""


class TrackingSettings(Settings):
    """MLflow. May change when a run is resumed."""

    uri: str = Field("sqlite:///~/metaug_ray/mlflow.db", min_length=1)
    """a server (http://host:5000), or a database file of this machine"""
    experiment: str = Field("metaug", min_length=1)
    """MLflow experiment"""


class PretrainSettings(Settings):
    """One pre-training run. The defaults are the paper's ImageNet ResNet-50 setting, on CMC's basis."""

    name: str = Field("imagenet_resnet50", max_length=100)
    """of the run: the same name again resumes it"""
    fork: str | None = Field(None, min_length=1)
    """begin with the weights of this other run: a warm start, from step 0, with other settings than model.*; generators
    of another size and the bank of other data begin anew"""
    register_as: str | None = Field(None, pattern=REGISTERED_NAME)
    """publish the encoder under this name in MLflow's registry when the run is finished"""
    seed: int = Field(0, ge=0, lt=2**31)
    """of weights, order, augmentations and negatives"""
    data: DataSettings
    """images"""
    model: ModelSettings = ModelSettings()
    """networks"""
    method: MethodSettings = MethodSettings()
    """loss and generators"""
    bank: BankSettings = BankSettings()
    """memory bank"""
    training: TrainingSettings = TrainingSettings()
    """optimisation"""
    compute: ComputeSettings = ComputeSettings()
    """machines"""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """checkpoints"""
    health: HealthSettings = HealthSettings()
    """what is watched"""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name: letters, digits, '.', '_' and '-' only, as it names a folder (got {self.name!r})")
        if self.fork == self.name:
            raise ValueError(f"fork: a run cannot begin with its own weights (got {self.fork!r}); give a new name")
        self.compute.check_readable(self.data.beton, self.health.knn_beton)
        least = {"conv": 63, "fc": 63}.get(self.model.encoder, 0)
        if self.data.image_size < least and not self.model.small_images:
            raise ValueError(
                f"data.image_size: the {self.model.encoder} encoder needs {least} px or model.small_images "
                f"(got {self.data.image_size})"
            )
        compute = self.compute
        if compute.min_workers is not None and (compute.workers is None or compute.min_workers > compute.workers):
            raise ValueError(
                f"compute.min_workers: got {compute.min_workers}; expected at most compute.workers "
                f"(got {compute.workers}), which elastic training needs too"
            )
        for workers in range(compute.min_workers or compute.workers or 1, (compute.workers or 1) + 1):
            self.images_per_worker(workers)
        return self

    def images_per_worker(self, workers: int) -> int:
        """A worker's share of the batch.

        Raises:
            ValueError: the batch does not divide evenly among them, or into parts of accumulation.
        """
        batch, accumulation = self.training.batch_size, self.training.accumulation
        share, rest = divmod(batch, workers * accumulation)
        least = 2 if self.method.generators else 1
        if rest or share < least:
            parts = f" in {accumulation} parts" if accumulation > 1 else ""
            short = f" and at least {least} images for batch norm" if least > 1 else ""
            nearest = max(least, round(batch / (workers * accumulation))) * workers * accumulation
            raise ValueError(
                f"training.batch_size: {batch} images among {workers} workers{parts} leave each "
                f"{batch / (workers * accumulation):g}; expected a whole number{short}, such as {nearest}"
            )
        if self.data.augmentation.mixup < 1 and share * accumulation % 2:
            raise ValueError(
                f"training.batch_size: mixup blends neighbours, and {batch} images among {workers} workers leave each "
                f"{share * accumulation}, an odd number; use a multiple of {2 * workers}"
            )
        return share * accumulation


class KnnSettings(Settings):
    """The weighted k-nearest-neighbour classifier (Wu et al. 2018)."""

    neighbours: int = Field(20, ge=1)
    """k"""
    temperature: Positive = 0.07
    """of the votes' weights exp(cosine / t)"""


class ProbeSettings(Settings):
    """The linear probe: a linear classifier on frozen representations of images without augmentation."""

    learning_rates: tuple[Positive, ...] = Field((3e-4, 1e-3, 3e-3, 1e-2), min_length=1)
    """of Adam; all are trained side by side, and the best on a held-out tenth is taken"""
    weight_decays: tuple[Annotated[float, Field(ge=0)], ...] = Field((1e-4, 1e-2, 1.0), min_length=1)
    """decoupled; each with each learning rate"""
    epochs: int = Field(30, ge=1)
    """passes over the representations"""
    least_steps: int = Field(500, ge=1)
    """steps at least, where there are few labels"""
    batch_size: int = Field(256, ge=1)
    """representations per step"""
    seeds: int = Field(3, ge=1, le=100)
    """probes with other orders and other choices of few labels; of their accuracies mean and 95 % interval are given"""
    label_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((1.0, 0.1, 0.01), min_length=1)
    """shares of the labels to learn from"""


class AugmentedProbeSettings(Settings):
    """The full linear evaluation, as CMC's: a linear classifier trained on augmented images, by Ray Train."""

    epochs: int = Field(60, ge=1)
    """passes over the images"""
    batch_size: int = Field(256, ge=1)
    """images per step over all workers together"""
    learning_rate: Positive = 0.1
    """of SGD with momentum 0.9, at the beginning; it falls as a cosine"""
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """l2 penalty"""
    augmentation: AugmentationSettings = AugmentationSettings()
    """of the training images"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.augmentation.mixup < 1:
            raise ValueError(f"augmentation.mixup: got {self.augmentation.mixup:g}; labels are not mixed: leave it 1")
        return self


_ENCODER = re.compile(
    r"(run|random):[A-Za-z0-9][A-Za-z0-9._-]*(@(last|best|checkpoint_\d+))?|models:/[^/@]+([/@][^/@]+)?"
)


class EvaluateSettings(Settings):
    """Judging one frozen encoder by a labelled data set."""

    encoder: str
    """run:NAME (its last checkpoint; run:NAME@best, run:NAME@checkpoint_000000640), random:NAME (that run's encoder
    before training), or a registered one: models:/NAME@champion, models:/NAME/3"""
    train: str = Field(min_length=1)
    """labelled beton to learn from"""
    test: str = Field(min_length=1)
    """labelled beton to be judged by, of the same classes"""
    storage: str = Field("~/metaug_ray/runs", min_length=1)
    """folder or URI of all runs"""
    image_size: int | None = Field(None, ge=16, le=1024)
    """side in pixels of the square that the encoders see; default: as in training"""
    crop: float = Field(1.0, gt=0, le=1)
    """side of the central square as a share of the shorter side; 0.875 is usual for ImageNet"""
    batch_size: int = Field(100, ge=1)
    """images at a time on each worker"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the encoders' arithmetic"""
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
    plots: bool = True
    """draw representations, confusions and nearest neighbours"""
    cache: Path = Path("~/metaug_ray/representations")
    """folder of this machine for representations, which another evaluation of the same encoder and data reads again"""
    compute: MachineSettings = MachineSettings()
    """machines"""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_encoder("encoder", self.encoder)
        if self.augmented_features and not self.encoder.startswith(("run:", "random:")):
            raise ValueError(
                f"augmented_features: registered encoders have no generators (got {self.encoder!r}); name a run"
            )
        self.compute.check_readable(self.train, self.test)
        return self


class RegisterSettings(Settings):
    """Publishing one frozen encoder in MLflow's registry."""

    encoder: str
    """run:NAME (its last checkpoint; run:NAME@best, run:NAME@checkpoint_000000640)"""
    name: str = Field(pattern=REGISTERED_NAME)
    """of the registered model; a new version of it is made"""
    promote: str | None = Field(None, min_length=1)
    """metric by which the version becomes the champion, if it beats the present one: knn/top1, linear/top1, ..."""
    force: bool = False
    """make it the champion whatever the metric says"""
    storage: str = Field("~/metaug_ray/runs", min_length=1)
    """folder or URI of all runs"""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_encoder("encoder", self.encoder)
        if not self.encoder.startswith("run:"):
            raise ValueError(f"encoder: only a run's can be registered (got {self.encoder!r}); expected run:NAME")
        if self.force and self.promote is None:
            raise ValueError("force: says that promote may overrule the comparison; set promote too")
        if self.promote is not None and self.promote.endswith("_interval"):
            raise ValueError(
                f"promote: {self.promote} is the width of an interval, not an accuracy; leave off _interval"
            )
        return self


class CompareSettings(Settings):
    """A table and figures across evaluated runs."""

    metrics: tuple[str, ...] = Field(("knn/top1", "linear/top1", "linear_10pct/top1"), min_length=1)
    """that are compared, as evaluations name them"""
    output: Path = Path("comparison")
    """folder for comparison.md and a figure for each data set"""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow"""


def check_encoder(field: str, encoder: str) -> None:
    """Refuse what names no encoder.

    Raises:
        ValueError: with what is expected.
    """
    if not _ENCODER.fullmatch(encoder):
        raise ValueError(
            f"{field}: got {encoder!r}; expected run:NAME, run:NAME@best, run:NAME@checkpoint_NUMBER, random:NAME, "
            "models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    if encoder.startswith("models:/") and not re.search(r"[/@]", encoder.removeprefix("models:/")):
        raise ValueError(f"{field}: {encoder} names no version; add @champion, @latest-good or /VERSION")
