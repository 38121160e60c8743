from pathlib import Path

import numpy as np
import torch

from metaug_ray.config import AugmentationSettings
from metaug_ray.data.decoded import _EpochThread
from metaug_ray.data.decoder import decoding_rows
from metaug_ray.data.loader import PretrainingLoader


def test_the_ring_of_buffers_holds_what_memory_of_their_own_does(shapes_beton: Path) -> None:
    """The ring is what a GPU is copied from; each batch of it is looked at before the next is taken."""
    augmentations = [AugmentationSettings()] * 2
    loader = PretrainingLoader(shapes_beton, 8, 16, augmentations, seed=0, cpus=1, device=torch.device("cpu"))
    indices = np.arange(96)
    boxes = np.column_stack([indices % 5, indices % 7, 10 + indices % 11, 12 + indices % 13])
    rows = decoding_rows(indices, [(boxes, indices % 2 == 0), (boxes[::-1], indices % 3 == 0)])
    batches = rows.reshape(-1, 8, rows.shape[1])
    ring, own = (_EpochThread(loader._reader._loader, iter(batches), reuse=reuse) for reuse in (True, False))
    seen = set()
    for batch, expected in zip(ring, own, strict=True):
        assert batch.shape == (2, 8, 16, 16, 3)
        assert batch.is_contiguous()
        assert torch.equal(batch, expected)
        seen.add(batch.data_ptr())
    assert len(seen) == 5  # three batches ahead, the one that is given and the one that is decoded
    ring.close()
    own.close()
