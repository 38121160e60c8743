"""Which minibatch comes at which step; that a run goes on in the middle of one: see test_resuming."""

from itertools import islice
from pathlib import Path

import torch

from metaug_ray.training.beton_batches import open_batches
from tests.training.small import small_settings


def test_a_batch_comes_for_so_many_steps_in_a_row(shapes_beton: Path) -> None:
    once, thrice = (
        open_batches(
            small_settings(shapes_beton, training={"updates_per_batch": updates}),
            shapes_beton,
            cpus=1,
            device=torch.device("cpu"),
        )
        for updates in (1, 3)
    )
    assert (once.steps_per_epoch, thrice.steps_per_epoch) == (6, 18)
    plain = list(islice(once.regular(0), 9))  # into the second epoch
    repeated = list(islice(thrice.regular(5), 22))
    for step, minibatch in enumerate(repeated, 5):
        assert torch.equal(minibatch.indices, plain[step // 3].indices)
        assert torch.equal(minibatch.images[0], plain[step // 3].images[0])
