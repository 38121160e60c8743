"""The memory bank: one feature of every image in every view, shared by all ranks of a process group."""

import hashlib
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from metaug_ray.choices import NegativeSampling, check_choice
from metaug_ray.method import distributed
from metaug_ray.method.unit_vectors import unit

_ROWS_PER_SEED: Final = (
    1024  # initial rows are drawn in blocks of this many: part of what a seed means, never change it
)


class BankSample(NamedTuple):
    """The bank rows that one minibatch is contrasted with. All are constants: no gradient flows into the bank."""

    global_index: Tensor
    """Data set indices of the global minibatch, int64 [W * B], rank by rank, on the CPU."""
    positives: Tensor
    """M_v[n_i], [V, B, D]."""
    negatives: Tensor
    """M_v[n_k]: one pool for all anchors [V, K, D] (`shared`), or each anchor's own [V, B, K, D] (`per_anchor`)."""
    collisions: tuple[Tensor, Tensor]
    """Where the shared pool holds an anchor's own row: anchors i [C] and pool places k [C]."""
    substitutes: Tensor
    """[V, B, D]: the row of another image that anchor i sees at its collisions ([V, 0, D] for `per_anchor`)."""

    def anchors(self, start: int, stop: int) -> "BankSample":
        """What the anchors from `start` to `stop` of this rank see; good for comparing, not for a refresh."""
        own, places = self.collisions
        inside = (own >= start) & (own < stop)
        negatives = self.negatives if self.negatives.ndim == 3 else self.negatives[:, start:stop]
        return BankSample(
            self.global_index,
            self.positives[:, start:stop],
            negatives,
            (own[inside] - start, places[inside]),
            self.substitutes[:, start:stop],
        )


class MemoryBank:
    """Rows M_v[n] for N images and V views, l2-normalised, sharded over the ranks of a process group.

    Rank r of W owns the rows [r c, (r + 1) c), c = ceil(N / W), of all views, so a rank keeps N V D / W numbers. A step
    moves rows, not the bank: one all-to-all brings the batch's own rows and the K negatives to each rank
    ((2 B + K) V D numbers), one sends the B new features to their owners. Which row goes where is worked out on the CPU
    from the gathered indices, so pass `index` there: one on a GPU costs a synchronisation.

    With W ranks on parts of a global batch the bank holds and gives the same rows as one process on all of it: initial
    rows depend on (seed, row) alone, draws on (seed, step, stream) and the place in the global batch.

    It has no parameters. `torch.distributed.checkpoint` saves and loads it as it is (`dcp.save({"bank": bank})`),
    whatever the number of ranks then and now.

    Args:
        size: N, images in the data set, at least 2.
        views: V.
        feature_size: D.
        negatives: K, rows drawn per anchor.
        sampling: `shared`, one pool of K rows per step for all anchors; or `per_anchor`, independent draws, which
            gather B K rows (134 MB per view and step at B = 64, K = 4096, D = 128 in float32). Each draw is
            uniform over the other N - 1 images either way; where the shared pool holds an anchor's own row, the anchor
            sees another image instead, one for all such places of the pool.
        momentum: m, how much of the old row a refresh keeps, in [0, 1).
        seed: of the initial rows and of the draws.
        dtype: of the stored rows; bfloat16 halves the memory. Refresh and similarities compute in float32 at least.
        device: of the stored rows.
        group: ranks that share the bank; None for the default group, or for this process alone where there is none.

    Raises:
        ValueError: an argument is out of the range given here.
    """

    def __init__(
        self,
        size: int,
        views: int,
        feature_size: int = 128,
        *,
        negatives: int = 4096,
        sampling: NegativeSampling = "shared",
        momentum: float = 0.5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if size < 2:
            raise ValueError(f"a memory bank of {size} rows has no negatives: it needs at least 2 images")
        if negatives < 1:
            raise ValueError(f"negatives is {negatives}: each anchor needs at least 1")
        check_choice("sampling", sampling, NegativeSampling)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum is {momentum}: it must lie in [0, 1)")
        self.size, self.views, self.feature_size = size, views, feature_size
        self.negatives, self.sampling, self.momentum, self.seed = negatives, sampling, momentum, seed
        self._group = group
        self._world = distributed.world_size(group)
        self._rank = distributed.rank(group)
        self._rows_per_rank = -(-size // self._world)
        self._start = min(self._rank * self._rows_per_rank, size)
        stop = min(self._start + self._rows_per_rank, size)
        self._rows = self._initial_rows(self._start, stop, dtype, torch.device(device))

    @property
    def local_bytes(self) -> int:
        """Memory of the rows that this rank owns, in bytes."""
        return self._rows.nbytes

    def sample(self, index: Tensor, step: int, *, stream: str = "regular") -> BankSample:
        """Read the rows that a minibatch is contrasted with: the anchors' own and K negatives for each.

        A collective call: every rank passes the same step and stream and a batch of the same size (with gloo, another
        size aborts the process: drop a last short batch).

        Args:
            index: data set indices of this rank's anchors, integers [B].
            step: number of the training step.
            stream: names an independent sequence of draws within a step.

        Raises:
            IndexError: an index of any rank lies outside the bank; the message names it.
            ValueError: `index` is not of integers [B].
        """
        global_index = self._gathered(index)
        index = index.detach().to("cpu", torch.int64)
        batch = len(index)
        draws = self._generator("draw", stream, step)
        if self.sampling == "per_anchor":
            rows = _without(global_index[:, None], self.size, (len(global_index), self.negatives), draws)
            wanted = [
                torch.cat([own, drawn.flatten()])
                for own, drawn in zip(global_index.split(batch), rows.split(batch), strict=True)
            ]
            positives, negatives = self._fetch(wanted).split([batch, batch * self.negatives], dim=1)
            none = torch.empty(0, dtype=torch.int64, device=self._rows.device)
            negatives = negatives.unflatten(1, (batch, self.negatives))
            return BankSample(global_index, positives, negatives, (none, none), positives[:, :0])

        pool = torch.randint(self.size, (self.negatives,), generator=draws)
        # A slot that hits the anchor's own row shows another image instead, drawn uniformly: P(row) stays 1 / (N - 1)
        # for each slot.
        substitutes = _without(global_index, self.size, (len(global_index),), draws)
        wanted = [
            torch.cat([own, substitute, pool])
            for own, substitute in zip(global_index.split(batch), substitutes.split(batch), strict=True)
        ]
        positives, substitute, negatives = self._fetch(wanted).split([batch, batch, self.negatives], dim=1)
        candidates = torch.isin(pool, index).nonzero().squeeze(1)
        anchors, places = (index[:, None] == pool[candidates]).nonzero(as_tuple=True)
        collisions = (self._to_device(anchors), self._to_device(candidates[places]))
        return BankSample(global_index, positives, negatives, collisions, substitute)

    def refresh(self, sample: BankSample, features: Tensor) -> None:
        """M_v[n_i] <- normalise(m M_v[n_i] + (1 - m) z_v[i]) (Wu et al. 2018).

        A collective call. An image that occurs more than once in the global batch takes its last feature, in the order
        of the batch. A row that would not be finite stays as it is.

        Args:
            sample: what :meth:`sample` gave for this minibatch.
            features: z, unit features of this rank's anchors, [V, B, D].

        Raises:
            ValueError: the features have another shape than the sample's positives.
        """
        if features.shape != sample.positives.shape:
            raise ValueError(f"features {list(features.shape)} do not fit the sample's {list(sample.positives.shape)}")
        self._write(sample.global_index, features, self.momentum)

    def fill(self, index: Tensor, features: Tensor) -> None:
        """M_v[n_i] <- z_v[i], whatever was there: for rows that begin as features of an untrained encoder.

        A collective call, as :meth:`sample`.

        Args:
            index: data set indices of this rank's images, integers [B].
            features: their unit features, [V, B, D].

        Raises:
            IndexError, ValueError: see :meth:`sample`; features of another shape.
        """
        if features.shape != (self.views, len(index), self.feature_size):
            raise ValueError(
                f"features {list(features.shape)} do not fit {len(index)} indices in a bank of {self.views} views and "
                f"{self.feature_size} numbers"
            )
        self._write(self._gathered(index), features, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The rows, [N, V, D]: a plain tensor for a process alone, a `DTensor` sharded over the group otherwise.

        The seed is a setting and not in it: resume with the same one to draw the same negatives.
        """
        if self._world == 1:
            return {"rows": self._rows}
        group = self._group or dist.group.WORLD
        assert group is not None  # as there are several ranks
        mesh = DeviceMesh.from_group(group, self._rows.device.type)
        shape = torch.Size((self.size, self.views, self.feature_size))
        stride = (self.views * self.feature_size, self.feature_size, 1)
        return {"rows": DTensor.from_local(self._rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over rows of the form that :meth:`state_dict` gives (or all of them, as a plain tensor).

        Raises:
            ValueError: they are of another bank: another number of images or views, or another feature size.
        """
        rows = state["rows"]
        expected = (self.size, self.views, self.feature_size)
        if tuple(rows.shape) != expected:
            raise ValueError(
                f"the saved memory bank has (images, views, feature size) = {tuple(rows.shape)}, this one {expected}: "
                "load it with the settings and the data set it was made with"
            )
        local = rows.to_local() if isinstance(rows, DTensor) else rows[self._start : self._start + len(self._rows)]
        if local.shape != self._rows.shape:
            raise ValueError(
                f"the saved memory bank is sharded in pieces of {len(local)} rows, this one in {len(self._rows)}: "
                "load it through torch.distributed.checkpoint, which moves the rows between ranks"
            )
        self._rows.copy_(local)

    def _gathered(self, index: Tensor) -> Tensor:
        """Indices of the global minibatch on the CPU, checked."""
        if not _integers(index):
            raise ValueError(f"index must be integers [B], got {index.dtype} {list(index.shape)}")
        index = index.detach().to("cpu", torch.int64)
        global_index = distributed.all_gather_equal(index, self._rows.device, self._group)
        # After the gathering, so that every rank raises and none waits for another.
        outside = global_index[(global_index < 0) | (global_index >= self.size)]
        if len(outside):
            raise IndexError(
                f"index {int(outside[0])} is outside the memory bank of {self.size} rows: "
                "it must be built for the number of images in the data set"
            )
        return global_index

    def _write(self, global_index: Tensor, features: Tensor, momentum: float) -> None:
        """Send this rank's features to the owners of their rows, and take in those of this rank's rows."""
        batch = features.shape[1]
        own = global_index[self._rank * batch : (self._rank + 1) * batch]
        owners = own // self._rows_per_rank
        order = owners.argsort(stable=True)
        arriving = [rows[rows // self._rows_per_rank == self._rank] for rows in global_index.split(batch)]
        with torch.no_grad():
            new = distributed.exchange(
                features.detach().transpose(0, 1)[self._to_device(order)],
                owners.bincount(minlength=self._world).tolist(),
                [len(rows) for rows in arriving],
                self._group,
            )
            last = {row: place for place, row in enumerate(torch.cat(arriving).tolist())}
            rows = self._to_device(torch.tensor(list(last), dtype=torch.int64) - self._start)
            places = self._to_device(torch.tensor(list(last.values()), dtype=torch.int64))
            old = self._rows[rows].to(new.dtype)
            mixed = unit(momentum * old + (1 - momentum) * new[places])
            # A bank row outlives the step: a non-finite one would come back as a negative of every later step.
            self._rows[rows] = torch.where(mixed.isfinite().all(-1, keepdim=True), mixed, old).to(self._rows.dtype)

    def _initial_rows(self, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uniform unit vectors, [stop - start, V, D]."""
        rows = torch.empty(stop - start, self.views, self.feature_size, dtype=dtype, device=device)
        for block in range(start // _ROWS_PER_SEED, -(-stop // _ROWS_PER_SEED)):
            normal = torch.randn(
                _ROWS_PER_SEED, self.views, self.feature_size, generator=self._generator("rows", "", block)
            )
            first = block * _ROWS_PER_SEED
            low, high = max(start, first), min(stop, first + _ROWS_PER_SEED)
            rows[low - start : high - start] = unit(normal.to(torch.promote_types(dtype, torch.float32)))[
                low - first : high - first
            ].to(dtype)
        return rows

    def _generator(self, use: str, stream: str, number: int) -> torch.Generator:
        key = f"{use}/{stream}/{self.seed}/{number}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        return torch.Generator().manual_seed(seed)

    def _fetch(self, wanted: list[Tensor]) -> Tensor:
        """Rows `wanted[r]` for every rank r, from their owners; returns this rank's, [V, len(wanted[rank]), D]."""
        if self._world == 1:
            return self._rows[self._to_device(wanted[0])].transpose(0, 1)
        sent = [rows[rows // self._rows_per_rank == self._rank] for rows in wanted]
        owners = wanted[self._rank] // self._rows_per_rank
        arrived = distributed.exchange(
            self._rows[self._to_device(torch.cat(sent) - self._start)],
            [len(rows) for rows in sent],
            owners.bincount(minlength=self._world).tolist(),
            self._group,
        )
        # Rows arrive owner by owner: put them back in the order they were wanted in.
        place = owners.argsort(stable=True).argsort()
        return arrived[self._to_device(place)].transpose(0, 1)

    def _to_device(self, index: Tensor) -> Tensor:
        if self._rows.device.type == "cuda":
            return index.pin_memory().to(self._rows.device, non_blocking=True)
        return index.to(self._rows.device)


def _integers(index: Tensor) -> bool:
    return index.ndim == 1 and not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)


def _without(own: Tensor, size: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform draws from range(size) without `own`, which broadcasts against `shape`."""
    drawn = torch.randint(size - 1, shape, generator=generator)
    return drawn + (drawn >= own)
