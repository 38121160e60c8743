"""The support set of NNCLR (Dwibedi et al. 2021): a queue of features of the last global batches."""

from typing import Any, Final

import torch
from torch import Tensor

from metaug_ray.method.targets.initial_rows import initial_rows

_BLOCK: Final = 4 * 2**20
"""Numbers of the similarities that are looked at at once: 16 MiB of float32."""


class SupportSet:
    """Rows Q[e, s] for E encoders and S places, unit vectors without gradient, the same on all ranks.

    Each rank has all of them, as each looks its own features up in all of them; a checkpoint has them once, for any
    number of ranks.

    Args:
        size: S.
        encoders: E.
        feature_size: D.
        seed: number that the initial rows depend on, which are uniform over the sphere.
        dtype: type that the rows are stored in.
        device: device that they are stored on.

    Raises:
        ValueError: S or E is below 1.
    """

    def __init__(
        self,
        size: int,
        encoders: int,
        feature_size: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 1 or encoders < 1:
            raise ValueError(f"a support set of {size} rows for {encoders} encoders: it needs at least 1 of each")
        drawn = initial_rows("support", 0, size, (encoders, feature_size), seed=seed, dtype=dtype, device=device)
        self.rows = drawn.transpose(0, 1).contiguous()
        self._oldest = torch.zeros((), dtype=torch.int64)

    @property
    def size(self) -> int:
        """S."""
        return self.rows.shape[1]

    def nearest(self, features: Tensor, encoder: int) -> Tensor:
        """Places of the rows with the largest inner product, int64 [B]; the first of equal ones.

        One matrix product, taken in blocks of rows, so that it needs some 32 MiB, whatever S is.

        Args:
            features: unit vectors [B, D].
            encoder: whose rows.
        """
        rows = self.rows[encoder]
        block = max(1, _BLOCK // len(features))
        best = torch.full((len(features),), -torch.inf, dtype=features.dtype, device=features.device)
        places = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        for start in range(0, self.size, block):
            found, place = (features @ rows[start : start + block].to(features.dtype).T).max(1)
            better = found > best
            best = torch.where(better, found, best)
            places = torch.where(better, place + start, places)
        return places

    def enqueue(self, features: Tensor) -> None:
        """Replace the oldest rows by these; behind the last row comes the first.

        Args:
            features: unit vectors of the global batch, in its order, [E, G, D].

        Raises:
            ValueError: there are more than rows.
        """
        count = features.shape[1]
        if count > self.size:
            raise ValueError(f"{count} features do not fit a support set of {self.size} rows")
        start = int(self._oldest)
        end = min(start + count, self.size)
        self.rows[:, start:end] = features[:, : end - start].to(self.rows.dtype)
        self.rows[:, : count - (end - start)] = features[:, end - start :].to(self.rows.dtype)
        self._oldest.fill_((start + count) % self.size)

    def state_dict(self) -> dict[str, Any]:
        """The rows [E, S, D], and the place of the oldest one."""
        return {"rows": self.rows, "oldest": self._oldest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: it is of another support set.
        """
        rows = state["rows"]
        if rows.shape != self.rows.shape:
            raise ValueError(
                f"the saved support set has (encoders, rows, feature size) = {tuple(rows.shape)}, this one "
                f"{tuple(self.rows.shape)}: load it with the settings that it was made with"
            )
        self.rows.copy_(rows)
        self._oldest.copy_(state["oldest"])
