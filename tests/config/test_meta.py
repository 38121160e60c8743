"""Settings of the meta step."""

from typing import Any

import pytest
from pydantic import ValidationError

from metaug_ray.config import PretrainSettings
from metaug_ray.config.base import explain


def read(meta: dict[str, Any], **training: Any) -> PretrainSettings:
    return PretrainSettings.model_validate(
        {"data": {"beton": "x.beton"}, "method": {"meta": meta}, "training": training, "compute": {"workers": 2}}
    )


@pytest.mark.parametrize(
    ("meta", "training", "message"),
    [
        (
            {"schedule": "lookahead", "virtual_learning_rate": 0.1},
            {},
            "method.meta.virtual_learning_rate: got 0.1, but with schedule lookahead and sgd the virtual step is the "
            "encoders' own (training.encoder.learning_rate); leave it out",
        ),
        ({"share": 0.3}, {}, "method.meta.share: got 0.3; expected one over a whole number, such as 1, 0.5 or 0.25"),
        ({"share": 0}, {}, "method.meta.share: got 0; expected more than 0"),
        (
            {"share": 0.25},
            {"batch_size": 12},
            "method.meta.share: got 0.25, and the 6 images of each worker do not divide into 4 parts of at least 2; "
            "use a larger share, or another training.batch_size",
        ),
        (
            {"keep_activations": True},
            {"accumulation": 2},
            "method.meta.keep_activations: with training.accumulation activations cannot be kept; leave "
            "training.accumulation out, or give --no-method.meta.keep-activations",
        ),
        ({"schedule": "later"}, {}, "method.meta.schedule: got 'later'; expected 'fused', 'separate' or 'lookahead'"),
    ],
)
def test_what_is_wrong_is_named(meta: dict[str, Any], training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(meta, **training)
    assert explain(caught.value).startswith(message)


def test_compiled_encoders_keep_no_activations() -> None:
    given = {"data": {"beton": "x.beton"}, "compute": {"compile": True}}
    kept = {"meta": {"keep_activations": True}}
    PretrainSettings.model_validate(given | {"method": {"generators": False, **kept}})
    with pytest.raises(ValidationError) as caught:
        PretrainSettings.model_validate(given | {"method": kept})
    assert "method.meta.keep_activations: with compute.compile activations cannot be kept" in explain(caught.value)


def test_other_optimisers_have_a_virtual_learning_rate_of_their_own() -> None:
    read({"schedule": "lookahead", "virtual_learning_rate": 0.1}, encoder={"kind": "adam"})
    assert read({"share": 0.333}, batch_size=12).method.meta.parts == 3
