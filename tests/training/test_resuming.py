"""A run that is broken off and goes on from its checkpoint, against one that is not, without Ray."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaug_ray.runtime.checkpoint import load
from metaug_ray.training.state import build_state
from tests.ranks import run_ranks
from tests.training.small import check_same, losses, plain_metrics, run_plain, small_settings, tensors_of

KEPT = {"keep_activations": True, "share": 0.5}


@pytest.mark.parametrize(
    ("schedule", "updates", "kept"),
    [("fused", 1, {}), ("separate", 1, {}), ("separate", 3, {}), ("lookahead", 3, {}), ("lookahead", 1, KEPT)],
)
def test_goes_on_exactly(shapes_beton: Path, tmp_path: Path, schedule: str, updates: int, kept: dict[str, Any]) -> None:
    """In the middle of an epoch, and of the steps on one batch, with all optimisers, schedules, generators and bank;
    and, with lookahead, between a step and that which looks back at it."""
    training = {"epochs": 3 // updates, "updates_per_batch": updates, "schedule": {"warmup_epochs": 1 / updates}}
    meta = {"schedule": schedule, "every": 2 if schedule == "lookahead" else 3, **kept}
    settings = small_settings(shapes_beton, method={"meta": meta}, training=training)
    whole, _ = run_plain(0, settings, tmp_path / "whole")
    first, _ = run_plain(0, settings, tmp_path / "broken", stop_at=14)
    second, _ = run_plain(0, settings, tmp_path / "broken", tmp_path / "broken/checkpoint_000000014")
    assert max(losses(first.seen)) == 14
    assert min(losses(second.seen)) == 15
    assert losses(first.seen) | losses(second.seen) == pytest.approx(losses(whole.seen), rel=1e-6)
    final = "checkpoint_000000018"
    check_same(
        tensors_of(tmp_path / "whole" / final, tmp_path / "a"), tensors_of(tmp_path / "broken" / final, tmp_path / "b")
    )


def test_a_lengthened_run_is_one_that_was_as_long_from_the_beginning(shapes_beton: Path, tmp_path: Path) -> None:
    """Three epochs and two more, across a milestone of the learning rates, against five."""
    schedule = {"kind": "step", "warmup_epochs": 1, "milestones": (2, 4)}
    short, long = (
        small_settings(
            shapes_beton,
            bank={"initial": "random"},
            model={"encoder": "conv", "small_images": True},
            method={"meta": {"schedule": "separate"}},
            training={"epochs": epochs, "schedule": schedule},
        )
        for epochs in (3, 5)
    )
    whole, _ = run_plain(0, long, tmp_path / "whole")
    first, _ = run_plain(0, short, tmp_path / "parts")
    second, _ = run_plain(0, long, tmp_path / "parts", tmp_path / "parts/checkpoint_000000018")
    assert (max(losses(first.seen)), min(losses(second.seen))) == (18, 19)
    assert losses(first.seen) | losses(second.seen) == pytest.approx(losses(whole.seen), rel=1e-6)
    final = "checkpoint_000000030"
    check_same(
        tensors_of(tmp_path / "whole" / final, tmp_path / "a"), tensors_of(tmp_path / "parts" / final, tmp_path / "b")
    )


def test_goes_on_with_another_number_of_workers(shapes_beton: Path, tmp_path: Path) -> None:
    """From 2 to 1 and from 1 to 2, amid a step and that which looks back at it: batch norm sees other parts, so losses
    are near, not equal."""
    settings = small_settings(shapes_beton, method={"meta": {"schedule": "lookahead", "every": 2}})
    whole = run_ranks(2, tmp_path / "ranks", plain_metrics, settings, tmp_path / "two")[0]
    run_plain(0, settings, tmp_path / "one", stop_at=14)
    two_to_one, _ = run_plain(0, settings, None, tmp_path / "two/checkpoint_000000014")
    one_to_two = run_ranks(2, tmp_path / "more", plain_metrics, settings, None, tmp_path / "one/checkpoint_000000014")[
        0
    ]
    for resumed in (losses(two_to_one.seen), losses(one_to_two)):
        assert list(resumed) == list(range(15, 19))
        for step, loss in resumed.items():
            assert loss == pytest.approx(losses(whole)[step], abs=0.1)
    # The bank that one worker loaded is the one that two saved.
    state = build_state(settings, 96, torch.device("cpu"))
    load(state, tmp_path / "two/checkpoint_000000014")
    rows = tensors_of(tmp_path / "two/checkpoint_000000014", tmp_path / "a")["/bank/rows"]
    assert torch.equal(state.metaug.targets.state_dict()["rows"], rows)
