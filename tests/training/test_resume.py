from pathlib import Path
from typing import Any

import pytest

from metaug_ray.config import PretrainSettings
from metaug_ray.config.recorded import fixed_settings
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.resume import check_resumable, lengthened
from tests.training.small import small_settings

OLD = small_settings(Path("/a.beton"))
RECORD = {"fixed": fixed_settings(OLD), "data": {"sha256": "1" * 64, "beton": "/a.beton"}}


def test_what_no_result_depends_on_may_change() -> None:
    other = small_settings(
        Path("/elsewhere/a.beton"),
        compute={"workers": 1, "compile": True},
        health={"log_every": 7},
        checkpoint={"keep": 9},
        tracking={"experiment": "other"},
    )
    check_resumable(RECORD, other, "1" * 64, ["checkpoint_000000007"])


def test_a_run_that_began_with_other_weights_is_named() -> None:
    forked = RECORD | {"fork": "first"}
    for same in (None, "first"):
        check_resumable(forked, small_settings(Path("/a.beton"), fork=same), "1" * 64, ["checkpoint_000000007"])
    for record, began in ((forked, "first"), (RECORD, "None")):
        with pytest.raises(TrainingError, match=rf"(?m)^  fork: {began} -> another$"):
            check_resumable(
                record, small_settings(Path("/a.beton"), fork="another"), "1" * 64, ["checkpoint_000000007"]
            )


def test_what_results_depend_on_may_not_and_is_shown() -> None:
    other = small_settings(
        Path("/b.beton"), method={"unified": {"beta": 64.0}, "meta": {"every": 2}}, training={"epochs": 9}, seed=1
    )
    with pytest.raises(TrainingError) as caught:
        check_resumable(RECORD, other, "2" * 64, ["checkpoint_000000007"])
    assert str(caught.value).splitlines() == [
        "name: run 'small' was made with other settings:",
        "  seed: 0 -> 1",
        "  method.unified.beta: 16.0 -> 64.0",
        "  method.meta.every: 3 -> 2",
        "  training.epochs: 3 -> 9 (a cosine schedule depends on their number from the first step on)",
        "  data.beton: /a.beton (SHA-256 111111111111...) -> /b.beton (SHA-256 222222222222...)",
        "Go on with the old ones, or begin a new run with its weights: --name NEW --fork small",
    ]


def test_another_data_set_under_the_same_path() -> None:
    with pytest.raises(TrainingError, match=r"data.beton: /a.beton \(SHA-256 1+\.\.\.\) -> /a.beton"):
        check_resumable(RECORD, OLD, "2" * 64, [])


def test_another_contrast_is_one_difference() -> None:
    other = small_settings(Path("/a.beton"), method={"contrast": "info_nce", "info_nce": {"temperature": 0.5}})
    with pytest.raises(TrainingError) as caught:
        check_resumable(RECORD, other, "1" * 64, ["checkpoint_000000007"])
    assert str(caught.value).splitlines()[1:-1] == ["  method.contrast: unified -> info_nce"]


def test_a_run_without_a_checkpoint_has_no_weights_to_begin_with() -> None:
    with pytest.raises(TrainingError, match=r"begin a new run: --name NEW \(this one has no checkpoint yet\)"):
        check_resumable(RECORD, OLD, "2" * 64, [])


def scheduled(kind: str, epochs: int, **changes: Any) -> PretrainSettings:
    training = {"epochs": epochs, "schedule": {"kind": kind, "warmup_epochs": 1}}
    return small_settings(Path("/a.beton"), training=training, **changes)


def record_of(settings: PretrainSettings, **more: Any) -> dict[str, Any]:
    return RECORD | {"settings": settings.model_dump(mode="json"), "fixed": fixed_settings(settings)} | more


@pytest.mark.parametrize("kind", ["step", "constant"])
def test_a_run_may_be_lengthened(kind: str) -> None:
    record = record_of(scheduled(kind, 3), finished=1.0, id="x")
    same = scheduled(kind, 3)
    check_resumable(record, same, "1" * 64, ["checkpoint_000000018"])
    assert lengthened(record, same) is record
    longer = scheduled(kind, 5)
    check_resumable(record, longer, "1" * 64, ["checkpoint_000000018"])
    assert lengthened(record, longer) == record_of(longer, id="x", lengthened=[3])
    again = lengthened(lengthened(record, longer), scheduled(kind, 9))
    assert again == record_of(scheduled(kind, 9), id="x", lengthened=[3, 5])
    assert record == record_of(scheduled(kind, 3), finished=1.0, id="x")


@pytest.mark.parametrize(
    ("kind", "epochs", "reason"),
    [
        ("cosine", 5, "a cosine schedule depends on their number from the first step on"),
        ("cosine", 2, "a run can be lengthened, not shortened"),
        ("step", 2, "a run can be lengthened, not shortened"),
    ],
)
def test_a_run_may_not_have_other_epochs(kind: str, epochs: int, reason: str) -> None:
    with pytest.raises(TrainingError) as caught:
        check_resumable(record_of(scheduled(kind, 3)), scheduled(kind, epochs), "1" * 64, ["checkpoint_000000018"])
    assert str(caught.value).splitlines()[1:-1] == [f"  training.epochs: 3 -> {epochs} ({reason})"]


def test_a_run_is_not_lengthened_with_other_settings() -> None:
    other = scheduled("constant", 5, seed=1)
    with pytest.raises(TrainingError) as caught:
        check_resumable(record_of(scheduled("step", 3)), other, "1" * 64, ["checkpoint_000000018"])
    assert str(caught.value).splitlines()[1:-1] == ["  seed: 0 -> 1", "  training.schedule.kind: step -> constant"]
