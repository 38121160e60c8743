"""The loop without Ray: what it reports, when it saves, and when it stops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.training import checkpoint_clock
from metaug_ray.training.loop import StoppedError
from metaug_ray.training.schedule import learning_rate_factor
from metaug_ray.training.state import TrainingState
from tests.training.small import losses, run_plain, small_settings


def test_reports_what_tells_whether_a_run_is_well(shapes_beton: Path) -> None:
    settings = small_settings(shapes_beton, training={"epochs": 2}, health={"log_every": 3, "knn": {"every": 1}})
    recorder, state = run_plain(0, settings)
    assert list(recorder.seen) == [0, 3, 6, 9, 12]
    assert list(recorder.seen[0]) == ["knn/accuracy", "rankme/l", "rankme/ab", "rankme/mean"]
    values = recorder.seen[6]
    assert values["progress/epoch"] == 1.0
    assert values["progress/skipped_steps"] == 0
    for view in ("positives", "negatives", "augmented_positives", "augmented_negatives"):
        low, mean, high = (values[f"similarity/{view}_{kind}"] for kind in ("min", "mean", "max"))
        assert 0 <= low < mean < high <= 1
    assert values["margin/sigma_plus"] <= values["margin/sigma_minus"]
    assert values["loss/total"] == pytest.approx(values["loss/original"] + 0.1 * values["loss/augmented"], rel=1e-5)
    assert 0 < values["feature_spread"] < 1.2
    spreads = [values[f"feature_spread_{view}"] for view in ("l", "ab")]
    assert values["feature_spread"] == pytest.approx(sum(spreads) / 2)
    assert 0 <= values["data/wait_fraction"] <= 1
    assert values["speed/images_per_second"] == pytest.approx(16 / values["speed/seconds_per_step"], rel=1e-6)
    assert 0.3 < values["memory/worker_gib"] < 24
    # Step 3, the fourth, trains the generators; the step that is reported here is the sixth.
    assert values["gradient_norm/generator"] == 0
    assert values["gradient_norm/encoder"] > 0
    assert recorder.seen[12]["progress/hours_left"] == 0
    factor = learning_rate_factor(settings.training.schedule, 5, 6, 2)
    assert values["learning_rate/encoder"] == pytest.approx(0.03 * factor)
    assert values["learning_rate/head"] == pytest.approx(1e-3 * factor)
    # Epoch ends, with their evaluations, and step 7.
    assert recorder.saved == [6, 7, 12]
    assert recorder.histogram_steps == [6, 12]
    assert all(0 <= recorder.seen[step]["knn/accuracy"] <= 1 for step in (0, 6, 12))
    assert recorder.saved_metrics[6]["rankme/mean"] == recorder.seen[6]["rankme/mean"] > 1
    assert "rankme/mean" not in recorder.saved_metrics[7]
    assert state.step == 12


def test_a_window_is_the_mean_of_its_steps(shapes_beton: Path) -> None:
    every, _ = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}))
    window, _ = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}, health={"log_every": 3}))
    single = losses(every.seen)
    assert losses(window.seen) == pytest.approx(
        {3: sum(single[s] for s in (1, 2, 3)) / 3, 6: sum(single[s] for s in (4, 5, 6)) / 3}, rel=1e-6
    )


def poison(steps: set[int]) -> Any:
    """Make the contrast of some steps, counted from 0, not a number."""

    def change(state: TrainingState) -> None:
        objective = state.metaug.model.objective
        contrast = objective.contrast

        def poisoned(positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
            value = contrast(positives, negatives)
            return value * float("nan") if state.step in steps else value

        objective.contrast = poisoned

    return change


def test_steps_that_are_not_finite_are_skipped_and_counted(shapes_beton: Path) -> None:
    settings = small_settings(shapes_beton, training={"epochs": 2, "nonfinite_limit": 3})
    recorder, state = run_plain(0, settings, change=poison({0, 4, 5, 8}))
    assert (state.step, state.skipped, state.skipped_in_row) == (12, 4, 0)
    assert recorder.seen[12]["progress/skipped_steps"] == 4
    finite = [step for step, loss in losses(recorder.seen).items() if loss == loss]
    assert finite == [2, 3, 4, 7, 8, 10, 11, 12]
    assert all(p.isfinite().all() for p in state.metaug.model.encoder.parameters())


def test_too_many_in_a_row_stop_the_run(shapes_beton: Path) -> None:
    settings = small_settings(shapes_beton, training={"epochs": 2, "nonfinite_limit": 3})
    with pytest.raises(StoppedError, match=r"was not finite in 3 steps in a row, up to step 9 .*nonfinite_limit is 3"):
        run_plain(0, settings, change=poison({2, 6, 7, 8}))


@pytest.mark.parametrize(("broken", "said"), [({4, 5}, "2 steps"), ({0, 1, 2, 3, 4, 5}, "6 steps")])
def test_a_run_that_ends_with_skipped_steps_is_no_success(shapes_beton: Path, broken: set[int], said: str) -> None:
    settings = small_settings(shapes_beton, training={"epochs": 1}, health={"knn": {"every": 1}})
    with pytest.raises(StoppedError, match=rf"was not finite in {said} in a row, up to step 6, its last: lower the"):
        run_plain(0, settings, change=poison(broken))


def test_one_skipped_step_at_the_end_is_chance(shapes_beton: Path) -> None:
    settings = small_settings(shapes_beton, training={"epochs": 1}, checkpoint={"every_steps": 2})
    recorder, state = run_plain(0, settings, change=poison({3, 5}))
    assert (state.step, state.skipped_in_row) == (6, 1)
    # After step 4, which was skipped, weights that may be broken push no checkpoint out.
    assert recorder.saved == [2, 6]


def test_a_run_whose_last_update_breaks_the_weights_is_no_success(shapes_beton: Path) -> None:
    """Of the second step, which the last one sees."""
    settings = small_settings(shapes_beton, training={"epochs": 1})

    def change(state: TrainingState) -> None:
        step = state.metaug.step

        def breaking(number: int, *batches: Any) -> Any:
            outcome = step(number, *batches)
            if number == 4:
                for weight in state.metaug.model.eager_encoder.encoders.parameters():
                    weight.data *= float("inf")
            return outcome

        state.metaug.step = breaking  # type: ignore[method-assign]

    with pytest.raises(StoppedError, match=r"was not finite in 1 step in a row, up to step 6, its last"):
        run_plain(0, settings, change=change)


def test_views_that_hold_nothing_are_told_at_each_start(shapes_beton: Path, tmp_path: Path) -> None:
    """And judged without labels, by RankMe, or with those of other images."""
    for name in ("a", "b"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for number in range(8):
            ramp = np.linspace(0, 25 * number + 50, 32 * 32).reshape(32, 32).astype(np.uint8)
            Image.fromarray(ramp).save(tmp_path / "grey" / name / f"{number}.png")
    source = SourceSettings(kind="imagefolder", path=str(tmp_path / "grey"), unlabelled=True)
    encoding, beton = EncodingSettings(preset="small"), tmp_path / "grey.beton"
    prepare(PrepareSettings(source=source, encoding=encoding, output=beton, workers=1))
    for views, empty in ((("l", "ab"), "ab"), (("y", "dbdr"), "dbdr"), (("rgb", "l"), None)):
        judge = None if empty else str(shapes_beton)
        knn = {"every": 1, "references": 10, "queries": 10, "references_beton": judge}
        settings = small_settings(
            beton, model={"views": views}, training={"epochs": 1}, bank={"negatives": 8}, health={"knn": knn}
        )
        recorder, _ = run_plain(0, settings)
        said = f"WARNING: there is nothing to learn from in 1 view, {empty}: one value in all pixels of the first 16"
        said += " images"
        assert [note.partition(".")[0] for note in recorder.notes] == ([said] if empty else [])
        measured = recorder.saved_metrics[1]
        assert ("knn/accuracy" in measured) == (judge is not None)
        # Of ten images, which a dead view cannot tell apart.
        for view in views:
            least, most = (0.99, 1.01) if view == empty else (1.1, 10)
            assert least < measured[f"rankme/{view}"] < most, view


@pytest.mark.parametrize(("initial", "expected"), [("random", []), ("features", list(range(96)))])
def test_the_bank_may_begin_with_features(shapes_beton: Path, initial: str, expected: list[int]) -> None:
    """Of every image, before the first step."""
    filled: list[int] = []

    def watch(state: TrainingState) -> None:
        fill, begin = state.metaug.fill_bank, state.metaug.targets.state_dict()["rows"].clone()

        def fill_bank(minibatch: Minibatch) -> None:
            assert state.step == 0
            filled.extend(minibatch.indices.tolist())
            fill(minibatch)
            assert not torch.equal(
                state.metaug.targets.state_dict()["rows"][minibatch.indices], begin[minibatch.indices]
            )

        state.metaug.fill_bank = fill_bank  # type: ignore[method-assign]

    settings = small_settings(shapes_beton, training={"epochs": 1}, bank={"initial": initial})
    recorder, _ = run_plain(0, settings, change=watch)
    assert sorted(filled) == expected
    assert len(recorder.notes) == len(expected) // 16
    assert max(recorder.seen) == 6


def test_checkpoints_by_the_clock(shapes_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_clock, "_SECONDS_PER_LOOK", 0.0)
    often = {"every_steps": None, "every_minutes": 1e-6}
    recorder, _ = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}, checkpoint=often))
    assert recorder.saved == [1, 2, 3, 4, 5, 6]
    seldom = {"every_steps": None, "every_minutes": 100}
    recorder, _ = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}, checkpoint=seldom))
    assert recorder.saved == [6]


@pytest.mark.parametrize(
    "method",
    [
        {"contrast": "nce", "generators": False},
        {"contrast": "info_nce"},
        {"contrast": "unified_eq8", "unified_eq8": {"centered": True}},
        {"contrast": "unified_attenuated", "generators": False},
        {"contrast": "debiased_info_nce", "generators": False},
        {"contrast": "hard_info_nce", "meta": {"schedule": "separate"}},
    ],
    ids=lambda method: method["contrast"],
)
def test_variants_are_settings_alone(shapes_beton: Path, method: dict[str, Any]) -> None:
    training = {"epochs": 1, "accumulation": 2, "clip_norm": 1.0, "encoder": {"kind": "lars", "learning_rate": 1.0}}
    recorder, state = run_plain(0, small_settings(shapes_beton, method=method, training=training))
    assert all(loss == loss for loss in losses(recorder.seen).values())
    assert ("similarity/augmented_positives_mean" in recorder.seen[6]) == method.get("generators", True)
    assert (state.metaug.model.generators is not None) == method.get("generators", True)


def test_weights_that_the_last_update_broke_are_neither_kept_nor_a_success(shapes_beton: Path) -> None:
    training = {"epochs": 1, "batch_size": 96, "encoder": {"kind": "sgd", "learning_rate": 1e38}}
    with pytest.raises(StoppedError, match="the encoders' weights are not finite numbers after step 1: lower"):
        run_plain(0, small_settings(shapes_beton, training=training))
