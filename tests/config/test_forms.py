"""Settings of the forms: a memory bank, the batch, neighbours; and that those of one are not given to another."""

from typing import Any

import pytest
from pydantic import ValidationError

from metaug_ray.config import PretrainSettings
from metaug_ray.config.base import explain
from metaug_ray.config.presets import PRESETS, PresetName
from metaug_ray.config.recorded import fixed_settings

BETON = {"data": {"beton": "x.beton"}}
TWO = {"model": {"views": ("rgb", "rgb.2")}}
SIMCLR = {"method": {"targets": "batch", "contrast": "info_nce", "generators": False}}
NNCLR = {"method": {"targets": "neighbours", "contrast": "info_nce", "generators": False}}


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            both = isinstance(value, dict) and isinstance(whole.get(name), dict)
            whole[name] = merged(whole[name], value) if both else value
    return whole


def read(*parts: dict[str, Any]) -> PretrainSettings:
    return PretrainSettings.model_validate(merged(BETON, *parts))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"model": {"views": ("rgb", "rgb.1")}}], "model.views: view rgb is given 2 times in rgb, rgb: one crop"),
        ([{"model": {"views": ("rgb", "l.2:rgb")}}], "model.views: views rgb and l.2:rgb share the encoder 'rgb'"),
        ([{"model": {"views": ("rgb.2", "l.2")}}], "model.views: no view is of the first crop"),
        ([TWO, SIMCLR, {"bank": {"momentum": 0.9}}], "bank.momentum: 0.9 is a setting of method.targets bank"),
        ([TWO, SIMCLR, {"support": {"size": 8192}}], "support.size: 8192 is a setting of method.targets neighbours"),
        ([{"support": {"precision": "bfloat16"}}], "support.precision: bfloat16 is a setting of method.targets neig"),
        ([{"model": {"prediction_hidden_size": 64}}], "model.prediction_hidden_size: 64 is a setting of method.tar"),
        ([TWO, {"method": {"targets": "batch", "contrast": "nce"}}], "method.contrast: nce tells images from draws"),
        ([TWO, NNCLR, {"support": {"size": 100}}], "support.size: 100 features are fewer than the 128 of a batch"),
        ([TWO, NNCLR, {"support": {"size": 0}}], "support.size: got 0; expected at least 2"),
        ([TWO, SIMCLR, {"training": {"batch_size": 1}}], "training.batch_size: got 1; expected at least 2"),
        (
            [TWO, NNCLR, {"training": {"updates_per_batch": 2}}],
            "training.updates_per_batch: got 2, but with method.tar",
        ),
        ([{"data": {"second_augmentation": {}}}], "data.second_augmentation: no view shows the second crop"),
        (
            [TWO, {"data": {"second_augmentation": {"mixup": 0.9}}, "training": {"batch_size": 9}}],
            "training.batch_size: mixup blends neighbours, and 9 images among 1 worker leave each 9",
        ),
        (
            [TWO, NNCLR, {"training": {"batch_size": 4}, "compute": {"workers": 4}}],
            "training.batch_size: 4 images among 4 workers leave each 1; expected a whole number and at least 2 images "
            "for batch norm, such as 8, or at most 2 workers, or training.sync_batch_norm",
        ),
    ],
)
def test_what_does_not_fit_is_named(given: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(*given)
    assert message in explain(caught.value)


def test_a_worker_may_have_one_image_where_batch_norm_sees_those_of_all() -> None:
    few = {"training": {"batch_size": 4, "sync_batch_norm": True}, "compute": {"workers": 4}}
    assert read(TWO, NNCLR, few).images_per_worker(4) == 1


def test_views_are_named_in_their_shortest_form() -> None:
    settings = read({"model": {"views": ("rgb.1:rgb", "l.2", "rgb.2")}})
    assert settings.model.views == ("rgb", "l.2", "rgb.2")
    assert settings.model.encoders == ("rgb", "l")
    assert (settings.model.encoder_numbers, settings.model.crops) == ((0, 1, 0), 2)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({}, "MetAug"),
        ({"targets": "neighbours"}, "MetAug*"),
        ({"targets": "neighbours", "contrast": "unified_eq8"}, "MetAug* (Eq. 8)"),
        ({"targets": "neighbours", "unified": {"centered": True}}, "MetAug*, centered"),
        ({"targets": "neighbours", "generators": False}, "only OUCL on NNCLR"),
        ({"targets": "neighbours", "contrast": "info_nce"}, "only MAG on NNCLR"),
        ({"targets": "neighbours", "contrast": "info_nce", "generators": False}, "NNCLR"),
        ({"targets": "batch"}, "MetAug on SimCLR"),
        ({"targets": "batch", "generators": False}, "only OUCL on SimCLR"),
        ({"targets": "batch", "contrast": "info_nce"}, "only MAG on SimCLR"),
        ({"targets": "batch", "contrast": "info_nce", "generators": False}, "SimCLR"),
        ({"targets": "batch", "contrast": "hard_info_nce", "generators": False}, "SimCLR + Hard"),
    ],
)
def test_forms_have_the_papers_names(method: dict[str, Any], name: str) -> None:
    assert read(TWO, {"method": method}).method.variant == name


def test_the_fast_preset_differs_from_the_papers_in_its_meta_step_alone() -> None:
    fast, papers = (fixed_settings(read(PRESETS[name])) for name in ("imagenet_metaug_fast", "imagenet_resnet50"))
    assert fast["method"].pop("meta") != papers["method"].pop("meta")
    assert fast | {"name": ""} == papers | {"name": ""}


@pytest.mark.parametrize(
    ("preset", "variant", "augmentations"),
    [
        ("imagenet_metaug_star", "MetAug*", 2),
        ("imagenet_nnclr", "NNCLR", 2),
        ("imagenet_simclr", "SimCLR", 1),
        ("cifar10_metaug_star", "MetAug*", 1),
        ("cifar10_nnclr", "NNCLR", 1),
        ("cifar10_simclr", "SimCLR", 1),
    ],
)
def test_presets_of_two_crops(preset: PresetName, variant: str, augmentations: int) -> None:
    settings = read(PRESETS[preset])
    assert (settings.name, settings.method.variant, settings.model.encoders) == (preset, variant, ("rgb",))
    assert len(set(map(repr, settings.crop_augmentations))) == augmentations
    if preset.startswith("imagenet"):
        training = settings.training
        assert (training.epochs, training.batch_size, training.schedule.warmup_epochs) == (1000, 4096, 10)
        assert training.encoder == training.head
        assert (training.encoder.kind, training.encoder.learning_rate, training.encoder.weight_decay) == (
            "lars",
            0.3 * 4096 / 256,
            1e-6,
        )
    if settings.method.targets == "neighbours" and preset.startswith("imagenet"):
        assert (settings.support.size, settings.model.feature_size, settings.model.head.layers) == (98_304, 256, 3)
