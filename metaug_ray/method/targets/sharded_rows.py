"""Rows of unit vectors that are sharded over the ranks of a process group: the storage of the memory bank."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from metaug_ray.method import distributed
from metaug_ray.method.targets.initial_rows import initial_rows
from metaug_ray.method.unit_vectors import unit


class ShardedRows:
    """Rows M_v[n] for N images and V views, [N, V, D], of which every rank owns a part.

    Rank r of W owns the rows [r c, (r + 1) c), c = ceil(N / W), of all views. Which row goes where is worked out on the
    CPU, from indices that all ranks know.

    Args:
        size: N.
        views: V.
        feature_size: D.
        seed: number that the initial rows depend on, which are uniform over the sphere.
        dtype: type that the rows are stored in.
        device: device that they are stored on.
        group: ranks that share the rows; None for the default group, or for this process alone where there is none.

    Attributes:
        local: rows that this rank owns, [c, V, D]; fewer than c, or none, on the last ranks.
    """

    def __init__(
        self,
        size: int,
        views: int,
        feature_size: int,
        *,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.shape = torch.Size((size, views, feature_size))
        self.group = group
        self.rank, self.world = distributed.rank(group), distributed.world_size(group)
        self._rows_per_rank = -(-size // self.world)
        self._start = min(self.rank * self._rows_per_rank, size)
        stop = min(self._start + self._rows_per_rank, size)
        self.local = initial_rows(
            "rows", self._start, stop, (views, feature_size), seed=seed, dtype=dtype, device=device
        )

    def ask(self, own: Tensor, shared: Tensor) -> Callable[[], Tensor]:
        """Ask the ranks that own them for rows, as they are now, in the background; a collective call.

        Args:
            own: rows that each rank wants for itself, int64 [W, R] on the CPU; the same on all ranks.
            shared: rows that all of them want besides, int64 [K] likewise.

        Returns:
            What waits for the rows that this rank wants, in this order, [V, R + K, D].
        """
        if self.world == 1:
            rows = self.local[self.to_device(torch.cat([own[0], shared]))].transpose(0, 1)
            return lambda: rows
        theirs, counts = self._of_this_rank(own)
        owners = own[self.rank] // self._rows_per_rank
        arrived = distributed.start_exchange(
            self.local[self.to_device(theirs - self._start)],
            counts,
            owners.bincount(minlength=self.world).tolist(),
            self.group,
        )
        # Rows arrive owner by owner: put them back in the order they were wanted in.
        place = self.to_device(owners.argsort(stable=True).argsort())
        if not len(shared):
            return lambda: arrived()[place].transpose(0, 1)
        # Of all that add up, one rank's is not 0.
        pool = self.local.new_zeros(len(shared), *self.shape[1:])
        (here,) = (shared // self._rows_per_rank == self.rank).nonzero(as_tuple=True)
        pool[self.to_device(here)] = self.local[self.to_device(shared[here] - self._start)]
        whole = distributed.start_sum(pool, self.group)
        return lambda: torch.cat([arrived()[place], whole()]).transpose(0, 1)

    def mix_in(self, global_index: Tensor, features: Tensor, momentum: float) -> None:
        """M_v[n_i] <- normalise(momentum * M_v[n_i] + (1 - momentum) z_v[i]); a collective call.

        A row that is given more than once takes its last feature, in the order of the global batch. A row that would
        not be finite stays as it is.

        Args:
            global_index: rows of the global minibatch, int64 [W * B], rank by rank, on the CPU.
            features: z of this rank's part, [V, B, D].
            momentum: share of the old row that is kept.
        """
        with torch.no_grad():
            rows, new = self._arriving(global_index, features)
            old = self.local[rows].to(new.dtype)
            mixed = unit(momentum * old + (1 - momentum) * new)
            # A bank row outlives the step: a non-finite one would come back as a negative of every later step.
            self.local[rows] = torch.where(mixed.isfinite().all(-1, keepdim=True), mixed, old).to(self.local.dtype)

    def put(self, global_index: Tensor, values: Tensor) -> None:
        """M_v[n_i] <- values_v[i], as they are; a collective call.

        Args:
            global_index: as for :meth:`mix_in`.
            values: of this rank's part, [V, B, D].
        """
        rows, new = self._arriving(global_index, values)
        self.local[rows] = new

    def _arriving(self, global_index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Places among the local rows [R], and what the ranks send for them, [R, V, D]: the last for each place."""
        batch = values.shape[1]
        own = global_index[self.rank * batch : (self.rank + 1) * batch]
        owners = own // self._rows_per_rank
        order = owners.argsort(stable=True)
        arriving, counts = self._of_this_rank(global_index.view(self.world, batch))
        new = distributed.exchange(
            values.detach().transpose(0, 1)[self.to_device(order)],
            owners.bincount(minlength=self.world).tolist(),
            counts,
            self.group,
        )
        last = {row: place for place, row in enumerate(arriving.tolist())}
        rows = self.to_device(torch.tensor(list(last), dtype=torch.int64) - self._start)
        return rows, new[self.to_device(torch.tensor(list(last.values()), dtype=torch.int64))]

    def _of_this_rank(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """Of what each rank names, [W, R], those rows that this one owns, rank by rank, and how many of each rank's."""
        here = rows // self._rows_per_rank == self.rank
        return rows[here], here.sum(1).tolist()

    def state(self) -> Tensor:
        """All rows, [N, V, D]: a plain tensor for a process alone, a `DTensor` sharded over the group otherwise."""
        return distributed.sharded(self.local, 0, self.group, shape=self.shape)

    def load(self, rows: Any) -> None:
        """Take over rows of the form that :meth:`state` gives, or all of them as a plain tensor.

        Raises:
            ValueError: they have another shape, or are sharded otherwise.
        """
        if rows.shape != self.shape:
            raise ValueError(
                f"the saved memory bank has (images, views, feature size) = {tuple(rows.shape)}, this one "
                f"{tuple(self.shape)}: load it with the settings and the data set it was made with"
            )
        local = rows.to_local() if isinstance(rows, DTensor) else rows[self._start : self._start + len(self.local)]
        if local.shape != self.local.shape:
            raise ValueError(
                f"the saved memory bank is sharded in pieces of {len(local)} rows, this one in {len(self.local)}: "
                "load it through torch.distributed.checkpoint, which moves the rows between ranks"
            )
        self.local.copy_(local)

    def to_device(self, index: Tensor) -> Tensor:
        """An index on the rows' device, without waiting for it."""
        if self.local.device.type == "cuda":
            return index.pin_memory().to(self.local.device, non_blocking=True)
        return index.to(self.local.device)
