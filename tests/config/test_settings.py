from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from metaug_ray.config import (
    AugmentationSettings,
    ColorJitterSettings,
    CompareSettings,
    EncodingSettings,
    EvaluateSettings,
    MethodSettings,
    ModelSettings,
    PrepareSettings,
    PretrainSettings,
    RandAugmentSettings,
    RegisterSettings,
    SourceSettings,
    TrackingSettings,
)
from metaug_ray.config.base import Settings, explain
from metaug_ray.method.encoders import build_encoder


def refusal(model: type[Any], /, **fields: object) -> str:
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            AugmentationSettings,
            {"crop_scale": (0.5, 0.2)},
            "crop_scale: got 0.5, 0.2; expected 0.001 <= least <= greatest <= 1",
        ),
        (
            AugmentationSettings,
            {"crop_scale": (0, 1)},
            "crop_scale: got 0.0, 1.0; expected 0.001 <= least <= greatest <= 1",
        ),
        (AugmentationSettings, {"crop_scale": (0.2, 1.5)}, "crop_scale: got 0.2, 1.5"),
        (
            AugmentationSettings,
            {"crop_ratio": (2, 1)},
            "crop_ratio: got 2.0, 1.0; expected 0.1 <= least <= greatest <= 10",
        ),
        (AugmentationSettings, {"flip": 1.5}, "flip: got 1.5; expected at most 1"),
        (AugmentationSettings, {"rotation": 181}, "rotation: got 181; expected at most 180"),
        (AugmentationSettings, {"grayscale": -0.1}, "grayscale: got -0.1; expected at least 0"),
        (AugmentationSettings, {"blur": 1.5}, "blur: got 1.5; expected at most 1"),
        (AugmentationSettings, {"solarize": -0.1}, "solarize: got -0.1; expected at least 0"),
        (AugmentationSettings, {"mixup": 0.4}, "mixup: got 0.4; expected at least 0.5"),
        (AugmentationSettings, {"mixup": float("nan")}, "mixup: got nan; expected"),
        (AugmentationSettings, {"sharpen": 1}, "sharpen: there is no such setting (got 1)"),
        (ColorJitterSettings, {"hue": 0.6}, "hue: got 0.6; expected at most 0.5"),
        (ColorJitterSettings, {"brightness": -1}, "brightness: got -1; expected at least 0"),
        (RandAugmentSettings, {"magnitude": 31}, "magnitude: got 31; expected at most 30"),
        (RandAugmentSettings, {"operations": 0}, "operations: got 0; expected at least 1"),
        (EncodingSettings, {}, "preset: is missing, and has no default"),
        (EncodingSettings, {"preset": "small", "max_resolution": 4}, "max_resolution: got 4; expected at least 8"),
        (
            EncodingSettings,
            {"preset": "imagenet-fast", "jpeg_fraction": 1},
            "jpeg_fraction: got 1; expected less than 1",
        ),
        (EncodingSettings, {"preset": "small", "jpeg_quality": 50}, "jpeg_quality: raw pixels have none (got 50)"),
        (EncodingSettings, {"preset": "imagenet", "jpeg_fraction": 0.5}, "jpeg_fraction: only mixed has one, not jpeg"),
        (
            EncodingSettings,
            {"preset": "imagenet", "jpeg_quality": 94},
            "jpeg_quality: above 93 the fast decoder of FFCV comes out farther from the pixels, not nearer (got 94)",
        ),
        (
            SourceSettings,
            {"kind": "shapes", "classes": "x.txt"},
            "classes: the source 'shapes' has its own; leave them out",
        ),
        (
            SourceSettings,
            {"kind": "parquet", "path": ".", "unlabelled": True, "classes": "x.txt"},
            "classes: images without labels have none; leave out classes or unlabelled",
        ),
        (
            SourceSettings,
            {"kind": "parquet", "path": ".", "classes": "/nowhere.txt"},
            "classes: there is no /nowhere.txt; give a beton or a text file",
        ),
        (SourceSettings, {"kind": "parquet", "path": ""}, "path: got ''; expected text of at least 1 character"),
        (SourceSettings, {"kind": "webdataset"}, "kind: got 'webdataset'; expected 'imagefolder', 'parquet',"),
        (SourceSettings, {"kind": "cifar10"}, "path: the source 'cifar10' needs the path of its files (none"),
        (SourceSettings, {"kind": "imagefolder", "path": "/nowhere"}, "path: /nowhere does not exist"),
        (
            SourceSettings,
            {"kind": "parquet", "path": "s3://bucket/train.parquet"},
            "path: s3://bucket/train.parquet does not exist; images are read from this machine's folders",
        ),
        (
            SourceSettings,
            {"kind": "cifar10", "path": ".", "split": "val"},
            "split: the source 'cifar10' has no split 'val'; choose from train, test",
        ),
        (
            SourceSettings,
            {"kind": "imagefolder", "path": ".", "split": "val"},
            "split: the source 'imagefolder' has no split 'val'; it has none",
        ),
        (
            SourceSettings,
            {"kind": "shapes", "part": (0.9, 0.8)},
            "part: got 0.9,0.8; expected two shares from 0 to 1, the lesser first, such as 0.8,0.9",
        ),
        (SourceSettings, {"kind": "shapes", "part": (0.5, 0.5)}, "part: got 0.5,0.5; expected two shares"),
        (SourceSettings, {"kind": "shapes", "part": (-0.1, 1)}, "part: got -0.1,1; expected two shares"),
        (SourceSettings, {"kind": "shapes", "part": (0, 1.1)}, "part: got 0,1.1; expected two shares"),
        (SourceSettings, {"kind": "shapes", "part": (0.8,)}, "part.1: is missing, and has no default"),
        (
            SourceSettings,
            {"kind": "cifar10", "path": ".", "unlabelled": True},
            "unlabelled: only imagefolder and parquet can drop labels, not 'cifar10'",
        ),
    ],
)
def test_says_the_field_the_value_and_what_is_allowed(
    model: type[Any], fields: dict[str, object], message: str
) -> None:
    assert message in refusal(model, **fields)


def test_names_nested_fields_in_full() -> None:
    lines = refusal(
        PrepareSettings,
        source={"kind": "shapes", "path": "x"},
        encoding={"preset": "imagenet", "jpeg_quality": 0},
        output="x.beton",
    )
    assert "source.path: shapes are generated and read no path" in lines
    assert "encoding.jpeg_quality: got 0; expected at least 1" in lines


@pytest.mark.parametrize(("name", "shown"), [("caf\udce9.beton", r"caf\xe9.beton"), ("a\nb.beton", r"a\nb.beton")])
def test_an_output_that_no_run_could_name(name: str, shown: str) -> None:
    lines = refusal(PrepareSettings, source={"kind": "shapes"}, encoding={"preset": "small"}, output=name)
    assert f"{shown} has a line break, or a byte that is not UTF-8" in lines


def test_a_source_whose_path_is_no_unicode() -> None:
    assert "path: is not UTF-8; rename it, or make a link" in refusal(SourceSettings, kind="parquet", path="caf\udce9")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AugmentationSettings().flip = 0.1  # type: ignore[misc]


def test_the_split_defaults_to_the_first() -> None:
    assert SourceSettings(kind="stl10", path=".").resolved_split == "unlabeled"
    assert SourceSettings(kind="cifar10", path=".", split="test").resolved_split == "test"
    assert SourceSettings(kind="imagefolder", path=".").resolved_split is None


def pretrain(**fields: Any) -> dict[str, Any]:
    """Fields of a run by dotted names, on top of what is required."""
    nested: dict[str, Any] = {"data": {"beton": "x.beton"}}
    for name, value in fields.items():
        *groups, last = name.split("__")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", value) for value in ("", "a/b", "-a", "x" * 101)),
        *(("fork", value) for value in ("", "imagenet_resnet50")),
        *(("seed", value) for value in (-1, 2**31, 0.5)),
        *(("data.beton", value) for value in ("", None)),
        *(("data.image_size", value) for value in (15, 1025)),
        *(("data.augmentation.flip", value) for value in (-0.1, 1.1)),
        *(("model.views", value) for value in (["l"], ["l", "l"], ["l", "hsv"])),
        *(("model.encoder", value) for value in ("vit",)),
        *(("model.width", value) for value in (0.75, 4)),
        *(("model.small_images", value) for value in ("maybe",)),
        *(("model.feature_size", value) for value in (1, 4097)),
        *(("method.contrast", value) for value in ("simclr",)),
        *(
            (f"method.{contrast}.{field}", value)
            for contrast in ("unified", "unified_eq8", "unified_attenuated")
            for field, value in (("beta", 0), ("beta", -1), ("beta", float("inf")), ("centered", "maybe"))
        ),
        *((f"method.{name}.gamma", value) for name in ("unified", "unified_attenuated") for value in (-0.1, 1.1)),
        *(("method.unified_eq8.margin", value) for value in (-1.1, 1.1)),
        *(("method.unified_attenuated.phi", value) for value in (0.9,)),
        *((f"method.{name}.temperature", 0) for name in ("info_nce", "debiased_info_nce", "hard_info_nce", "nce")),
        *(
            (f"method.{name}.class_prior", value)
            for name in ("debiased_info_nce", "hard_info_nce")
            for value in (-0.1, 1)
        ),
        *(("method.hard_info_nce.concentration", value) for value in (-1,)),
        *(("method.generators", value) for value in ("maybe",)),
        *(("method.generator_hidden_size", value) for value in (7, 65_537)),
        *(("method.delta", value) for value in (-1e-9, float("nan"))),
        *(("method.alpha", value) for value in (-1e-9,)),
        *(("method.margin", value) for value in ("huge",)),
        *(("method.meta.schedule", value) for value in ("later",)),
        *(("method.meta.virtual_learning_rate", value) for value in (0,)),
        *(("method.meta.every", value) for value in (0,)),
        *(("bank.negatives", value) for value in (0,)),
        *(("bank.sampling", value) for value in ("all",)),
        *(("bank.momentum", value) for value in (-0.1, 1)),
        *(("bank.initial", value) for value in ("zeros",)),
        *(("bank.precision", value) for value in ("float16",)),
        *(("training.epochs", value) for value in (0, 100_001)),
        *(("training.batch_size", value) for value in (1,)),
        *(("training.accumulation", value) for value in (0, 3)),
        *(("training.precision", value) for value in ("float16",)),
        *((f"training.{name}.kind", "adagrad") for name in ("encoder", "head", "generator")),
        *((f"training.{name}.learning_rate", 0) for name in ("encoder", "head", "generator")),
        *(("training.encoder.momentum", value) for value in (-0.1, 1)),
        *(("training.encoder.weight_decay", value) for value in (-0.1, 1)),
        *(("training.encoder.decay_norm_and_bias", value) for value in ("maybe",)),
        *(("training.schedule.kind", value) for value in ("exponential",)),
        *(("training.schedule.warmup_epochs", value) for value in (-1, 241)),
        *(("training.schedule.milestones", value) for value in ([3, 2], [-1], [2, 2])),
        *(("training.schedule.decay", value) for value in (0, 1)),
        *(("training.schedule.final", value) for value in (-0.1, 1)),
        *(("training.clip_norm", value) for value in (0,)),
        *(("training.nonfinite_limit", value) for value in (0,)),
        *(("compute.address", value) for value in ("",)),
        *(("compute.device", value) for value in ("tpu",)),
        *(("compute.workers", value) for value in (0, 4097, 3)),
        *(("compute.min_workers", value) for value in (0, 2)),
        *(("compute.cpus_per_worker", value) for value in (0, 1025)),
        *(("compute.gpus_per_worker", value) for value in (0, 1.1)),
        *(("compute.compile", value) for value in ("maybe",)),
        *(("compute.channels_last", value) for value in ("maybe",)),
        *(("compute.max_failures", value) for value in (-1,)),
        *(("compute.max_failures_in_row", value) for value in (-1,)),
        *(("compute.max_driver_restarts", value) for value in (-1,)),
        *(("storage", value) for value in ("",)),
        *(("checkpoint.every_steps", value) for value in (0,)),
        *(("checkpoint.grace_seconds", value) for value in (-1, float("inf"))),
        *(("checkpoint.every_minutes", value) for value in (0, None)),
        *(("checkpoint.keep", value) for value in (0, 1001)),
        *(("checkpoint.asynchronous", value) for value in ("maybe",)),
        *(("health.log_every", value) for value in (0,)),
        *(("health.knn.every", value) for value in (-1,)),
        *(("health.knn.beton", value) for value in ("",)),
        *(("health.knn.references_beton", value) for value in ("",)),
        *(("health.knn.references", value) for value in (9,)),
        *(("health.knn.queries", value) for value in (9,)),
        *(("health.knn.neighbours", value) for value in (0,)),
        *(("health.knn.temperature", value) for value in (0,)),
        *(("health.best_by", value) for value in ("accuracy",)),
        *(("health.collapse_below", value) for value in (-0.1, 1)),
        *(("tracking.uri", value) for value in ("",)),
        *(("tracking.experiment", value) for value in ("",)),
        *((f"{group}unknown", 1) for group in ("", "data.", "model.", "method.", "method.meta.", "bank.", "training.")),
        *((f"method.{name}.unknown", 1) for name in ("unified", "info_nce", "nce")),
        *((f"{group}unknown", 1) for group in ("compute.", "checkpoint.", "health.", "tracking.", "training.encoder.")),
    ],
)
def test_every_field_of_a_run_refuses_what_is_out_of_range(field: str, value: object) -> None:
    lines = refusal(PretrainSettings, **pretrain(**{field.replace(".", "__"): value}))
    # The batch is what does not divide.
    named = {"training.accumulation": "training.batch_size", "compute.workers": "training.batch_size"}
    assert lines.startswith((field, named.get(field, field))), lines
    PretrainSettings(**pretrain())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"training__batch_size": 100, "compute__workers": 3},
            "training.batch_size: 100 images among 3 workers leave each 33.3333; expected a whole number and at least",
        ),
        (
            {"compute__gpus_per_worker": 0.25},
            "compute.gpus_per_worker: got 0.25 with workers left open; workers of one run cannot share a GPU",
        ),
        (
            {"compute__gpus_per_worker": 0.25, "compute__workers": 2},
            "compute.gpus_per_worker: got 0.25 with workers 2; workers of one run cannot share a GPU, as NCCL refuses "
            "it: set workers to 1, or leave gpus_per_worker out",
        ),
        (
            {
                "training__batch_size": 120,
                "compute__workers": 4,
                "compute__min_workers": 4,
                "training__accumulation": 4,
            },
            "training.batch_size: 120 images among 4 workers in 4 parts leave each 7.5; expected",
        ),
        (
            # A ResNet-18 of 32 px ends in maps of 1x1.
            {"training__batch_size": 2, "compute__workers": 2, "method__generators": False, "data__image_size": 32},
            "training.batch_size: 2 images among 2 workers leave each 1; expected a whole number and at least 2 images "
            "for batch norm, such as 4, or at most 1 worker",
        ),
        (
            {"training__batch_size": 16, "training__accumulation": 16, "method__generators": False}
            | {"model__encoder": "fc", "compute__workers": 1},
            "training.batch_size: 16 images among 1 worker in 16 parts leave each 1; expected",
        ),
        (
            {"training__batch_size": 32, "compute__workers": 64},
            "training.batch_size: 32 images among 64 workers leave each 0.5; expected a whole number and at least 2 "
            "images for batch norm, such as 128, or at most 16 workers",
        ),
        (
            {"health__knn__beton": "s3://bucket/y.beton"},
            "compute.staging: s3://bucket/y.beton is not a local file, so say where",
        ),
        (
            {"health__knn__references_beton": "s3://bucket/z.beton"},
            "compute.staging: s3://bucket/z.beton is not a local file, so say where",
        ),
        (
            {"health__best_by": "rankme", "health__knn__every": 0},
            "health.best_by: rankme is measured every health.knn.every epochs, and that is 0, never; set",
        ),
        (
            {"data__augmentation": {"mixup": 0.8}, "training__batch_size": 6, "compute__workers": 2},
            "training.batch_size: mixup blends neighbours, and 6 images among 2 workers leave each 3, an odd number",
        ),
        (
            {"data__beton": "s3://bucket/x.beton"},
            "compute.staging: s3://bucket/x.beton is not a local file, so say where",
        ),
        (
            {"model__encoder": "conv", "data__image_size": 32},
            "data.image_size: the conv encoder needs 63 px or model.small",
        ),
    ],
)
def test_settings_that_do_not_fit_together(fields: dict[str, object], message: str) -> None:
    assert message in refusal(PretrainSettings, **pretrain(**fields))


@pytest.mark.parametrize("encoder", ["resnet18", "conv", "fc"])
@pytest.mark.parametrize("small", [False, True])
def test_one_image_is_refused_where_batch_norm_refuses_it(encoder: str, small: bool) -> None:
    model = ModelSettings(encoder=encoder, small_images=small, width=0.5)
    network = build_encoder(encoder, 1, width=0.5, small_images=small).train()
    for size in (16, 32, 33, 63, 80):
        if size < model.minimum_size:
            continue
        refused = pytest.raises(ValueError, match="Expected more than 1 value per channel")
        with refused if model.one_value_per_channel(size) else nullcontext():
            network(torch.rand(1, 1, size, size))


def test_mlflows_own_variable_is_the_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert TrackingSettings().uri == "sqlite:////home/me/metaug_ray/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    for settings in (
        PretrainSettings(**pretrain()),
        EvaluateSettings.model_validate(EVALUATION),
        RegisterSettings(encoder="run:x", name="x"),
        CompareSettings(),
    ):
        assert settings.tracking.uri == "http://there:5000"
    assert TrackingSettings(uri="http://here:1").uri == "http://here:1"


EVALUATION = {"encoder": "run:x", "train": "a.beton", "test": "b.beton"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("encoder", value) for value in ("", "x", "run:", "run:x@", "run:x@newest", "models:/x", "models:/x@a/b")),
        *((name, "") for name in ("train", "test", "storage")),
        *(("image_size", value) for value in (15, 1025)),
        *(("crop", value) for value in (0, 1.1)),
        *(("batch_size", value) for value in (0,)),
        *(("precision", value) for value in ("float16",)),
        *(("knn", value) for value in ({"neighbours": 0}, {"temperature": 0}, {"unknown": 1})),
        *(("probe.learning_rates", value) for value in ((), (0,))),
        *(("probe.weight_decays", value) for value in ((), (-1,))),
        *((f"probe.{name}", 0) for name in ("epochs", "least_steps", "batch_size", "seeds")),
        *(("probe.label_shares", value) for value in ((), (0,), (1.1,))),
        *((f"augmented_probe.{name}", 0) for name in ("epochs", "batch_size", "learning_rate")),
        *(("augmented_probe.weight_decay", value) for value in (-1, 1)),
        *(
            ("compute", value)
            for value in ({"device": "tpu"}, {"workers": 0}, {"cpus_per_worker": 0}, {"compile": True})
        ),
        *(("unknown", value) for value in (1,)),
    ],
)
def test_every_field_of_an_evaluation_refuses_what_is_out_of_range(field: str, value: object) -> None:
    head, _, tail = field.partition(".")
    assert refusal(EvaluateSettings, **EVALUATION | {head: {tail: value} if tail else value}).startswith(field)
    EvaluateSettings.model_validate(EVALUATION)


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        (
            EvaluateSettings,
            EVALUATION | {"encoder": "models:/x@champion", "augmented_features": True},
            "augmented_features: registered encoders have no generators (got 'models:/x@champion'); name a run",
        ),
        (EvaluateSettings, EVALUATION | {"train": "s3://b/x.beton"}, "compute.staging: s3://b/x.beton is not a local"),
        (RegisterSettings, {"encoder": "random:x", "name": "x"}, "encoder: only a run's can be registered"),
        (RegisterSettings, {"encoder": "run:x", "name": "a b"}, "name: got 'a b'; expected letters, digits,"),
        (RegisterSettings, {"encoder": "run:x", "name": "x", "force": True}, "force: says that promote may overrule"),
        (CompareSettings, {"metrics": ()}, "metrics: "),
    ],
)
def test_evaluations_and_registrations_that_cannot_be(
    settings: type[Settings], fields: dict[str, object], message: str
) -> None:
    assert message in refusal(settings, **fields)


def test_paths_are_absolute_wherever_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    run = PretrainSettings.model_validate(
        pretrain(data__beton="x.beton", health__knn__beton="~/y.beton", tracking__uri="sqlite:///runs.db")
    )
    assert run.data.beton == f"{tmp_path}/x.beton"
    assert run.health.knn.beton == "/home/me/y.beton"
    assert (run.storage, run.tracking.uri) == ("/home/me/metaug_ray/runs", f"sqlite:///{tmp_path}/runs.db")
    remote = pretrain(data__beton="s3://b/x.beton", compute__staging="~/disk", storage="s3://bucket/runs")
    run = PretrainSettings.model_validate(remote)
    assert (run.data.beton, run.storage, str(run.compute.staging)) == (
        "s3://b/x.beton",
        "s3://bucket/runs",
        "/home/me/disk",
    )
    evaluation = EvaluateSettings.model_validate(EVALUATION)
    assert (evaluation.train, str(evaluation.cache)) == (f"{tmp_path}/a.beton", "/home/me/metaug_ray/representations")
    # A file may be called as a home folder that nobody has.
    assert CompareSettings(output=Path("~nobody-here/x")).output == tmp_path / "~nobody-here/x"


@pytest.mark.parametrize(
    ("method", "variant"),
    [
        ({}, "MetAug"),
        ({"generators": False}, "only OUCL"),
        ({"contrast": "unified", "unified": {"centered": True}}, "MetAug, centered"),
        ({"contrast": "unified_eq8"}, "MetAug (Eq. 8)"),
        # Of another contrast than the one that is trained.
        ({"contrast": "unified_attenuated", "unified": {"centered": True}}, "MetAug (Eq. 9)"),
        ({"contrast": "info_nce"}, "only MAG"),
        ({"contrast": "info_nce", "generators": False}, "CMC"),
        ({"contrast": "nce", "generators": False}, "CMC (NCE)"),
        ({"contrast": "hard_info_nce", "generators": False}, "CMC + Hard"),
        ({"contrast": "debiased_info_nce"}, "only MAG on CMC + Debiased"),
    ],
)
def test_variants_have_the_papers_names(method: dict[str, object], variant: str) -> None:
    assert MethodSettings.model_validate(method).variant == variant
