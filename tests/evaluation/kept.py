"""Representations as `represent` keeps them, out of arrays."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaug_ray.evaluation.stored import COMPLETE, Labelled


def keep(
    folder: Path, values: NDArray[np.float32], labels: NDArray[np.int64], encoders: slice = slice(None), node: str = ""
) -> Labelled:
    """Write [M, E, H] into a folder of its own; labels [M] are -1 where an image has none."""
    folder.mkdir()
    np.save(folder / "representations.npy", values.astype(np.float32))
    (folder / COMPLETE).write_text("{}\n")
    return Labelled.of(np.load(folder / "representations.npy", mmap_mode="r"), encoders, labels, node)
