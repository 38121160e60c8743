"""Runs on two crops through one encoder, without Ray: broken off, over ranks, and in parts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaug_ray.config import PretrainSettings
from tests.ranks import run_ranks
from tests.training.small import check_same, losses, plain_metrics, run_plain, small_settings, tensors_of

FORMS: dict[str, dict[str, Any]] = {
    "MetAug*": {"targets": "neighbours"},
    "MetAug on SimCLR": {"targets": "batch"},
    "SimCLR": {"targets": "batch", "contrast": "info_nce", "generators": False},
}


def settings_of(form: str, beton: Path, **changes: Any) -> PretrainSettings:
    neighbours = FORMS[form]["targets"] == "neighbours"
    model = {"views": ("rgb", "rgb.2"), "encoder": "conv", "small_images": True}
    model["head"] = {"layers": 2, "hidden_size": 24, "output_norm": neighbours}
    of_neighbours = {"support": {"size": 40}} if neighbours else {}
    predictor = {"prediction_hidden_size": 24} if neighbours else {}
    # Slow, and without Adam: what the ranks' rounding does to the last digits grows with each step.
    slow = {"kind": "sgd", "learning_rate": 1e-3}
    optimizers = {"encoder": slow, "head": slow, "generator": slow}
    training = {"sync_batch_norm": True, "epochs": 2, **optimizers} | changes.pop("training", {})
    settings = small_settings(
        beton,
        model=model | predictor,
        method=FORMS[form],
        bank={"negatives": 4096},  # the default, which is none of these
        training=training,
        data={"second_augmentation": {"blur": 0.5, "solarize": 0.2}},
        **of_neighbours,
        **changes,
    )
    assert settings.method.variant == form
    return settings


@pytest.mark.parametrize("form", FORMS)
def test_goes_on_exactly(form: str, shapes_beton: Path, tmp_path: Path) -> None:
    """With weights, heads, generator and support set, in the middle of an epoch and of the support set."""
    settings = settings_of(form, shapes_beton)
    whole, _ = run_plain(0, settings, tmp_path / "whole")
    first, _ = run_plain(0, settings, tmp_path / "broken", stop_at=7)
    second, _ = run_plain(0, settings, tmp_path / "broken", tmp_path / "broken/checkpoint_000000007")
    assert losses(first.seen) | losses(second.seen) == losses(whole.seen)
    final = "checkpoint_000000012"
    ours, theirs = (tensors_of(tmp_path / name / final, tmp_path / f"{name}.pt") for name in ("broken", "whole"))
    check_same(ours, theirs, parts=("/encoder/", "/optimizers/"))
    support = [name for name in theirs if name.startswith("/support_set/")]
    assert support == (["/support_set/rows", "/support_set/oldest"] if form == "MetAug*" else [])
    if support:
        assert int(theirs["/support_set/oldest"]) == 12 * 16 % 40
        torch.testing.assert_close(theirs["/support_set/rows"].norm(dim=-1), torch.ones(1, 40))
    assert not any(name.startswith("/bank") for name in theirs)


@pytest.mark.parametrize("form", ["MetAug*", "MetAug on SimCLR"])
def test_ranks_with_synchronised_batch_norm_equal_one_process(form: str, shapes_beton: Path, tmp_path: Path) -> None:
    """From the images on: crops do not depend on the ranks, and a checkpoint of two goes on with one.

    Rounding grows tenfold with each step here; tests/method shows equality to 1e-9, in float64.
    """
    settings = settings_of(form, shapes_beton)
    one, _ = run_plain(0, settings, stop_at=7)
    two = losses(run_ranks(2, tmp_path / "ranks", plain_metrics, settings, tmp_path / "two")[0])
    first = losses(one.seen)
    assert [two[step] for step in range(1, 6)] == pytest.approx([first[step] for step in range(1, 6)], rel=1e-3)
    resumed, _ = run_plain(0, settings, None, tmp_path / "two/checkpoint_000000007")
    assert [losses(resumed.seen)[step] for step in (8, 9)] == pytest.approx([two[step] for step in (8, 9)], rel=1e-3)


def test_parts_of_a_share_are_compared_with_the_whole_batch(shapes_beton: Path) -> None:
    """Equality is shown in tests/method, with batch norm fixed; here it sees a part."""
    parts, _ = run_plain(0, settings_of("SimCLR", shapes_beton, training={"accumulation": 4, "epochs": 1}))
    # Two pairs of anchors with 30 negatives each begin at about 2 log 31 = 6.9; with the 6 of a part at 3.9.
    assert min(losses(parts.seen).values()) > 4.4
