"""The memory bank: one feature of every image in every view, shared by all ranks of a process group."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.choices import NegativeSampling, check_choice
from metaug_ray.method import distributed, draws
from metaug_ray.method.similarities import stacked
from metaug_ray.method.targets.bank_sample import BankSample
from metaug_ray.method.targets.sharded_rows import ShardedRows


class MemoryBank:
    """Rows M_s[n] for N images and S slots, l2-normalised, sharded over the ranks of a process group. A view has a slot
    of its own, or shares one with the views that share its encoder: it is then refreshed by the first of them.

    A rank keeps N S D / W numbers (:class:`~metaug_ray.method.targets.sharded_rows.ShardedRows`). A step moves rows,
    not the bank: one all-to-all brings each rank the 2 B rows that it alone asks for, a sum over the ranks the K
    negatives of all, and one all-to-all sends the B new features to their owners. Which row goes where is worked out on
    the CPU from the indices of all ranks, so pass `index` there: one on a GPU costs a synchronisation.

    With W ranks on parts of a global batch the bank holds and gives the same rows as one process on all of it: initial
    rows depend on (seed, row) alone, draws on (seed, step, stream) and the place in the global batch.

    It has no parameters. `torch.distributed.checkpoint` saves and loads it as it is (`dcp.save({"bank": bank})`),
    whatever the number of ranks then and now.

    Args:
        size: N, images in the data set, at least 2.
        views: V, how many views; or for each view the number of its slot, from 0 on.
        feature_size: D.
        negatives: K, rows drawn per anchor, at least 1.
        sampling: `shared`, one pool of K rows per step for all anchors; or `per_anchor`, independent draws, which
            gather B K rows (134 MB per view and step at B = 64, K = 4096, D = 128 in float32). Each draw is
            uniform over the other N - 1 images either way; where the shared pool holds an anchor's own row, the anchor
            sees another image instead, one for all such places of the pool.
        momentum: m, how much of the old row a refresh keeps, in [0, 1).
        seed: number that initial rows and draws depend on.
        dtype: type that the rows are stored in; bfloat16 halves the memory. Refresh and similarities compute in float32
            at least.
        device: device that the rows are stored on.
        group: ranks that share the bank; None for the default group, or for this process alone where there is none.

    Attributes:
        views: V.

    Raises:
        ValueError: an argument is out of the range given here.
    """

    kept_as: ClassVar[str | None] = "bank"

    def __init__(
        self,
        size: int,
        views: int | Sequence[int],
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
        self._slots = tuple(range(views)) if isinstance(views, int) else tuple(views)
        self.size, self.views, self.feature_size = size, len(self._slots), feature_size
        slots = max(self._slots) + 1
        self._first_views = [self._slots.index(slot) for slot in range(slots)]
        self.negatives, self.sampling, self.momentum, self.seed = negatives, sampling, momentum, seed
        self._rows = ShardedRows(size, slots, feature_size, seed=seed, dtype=dtype, device=device, group=group)

    @property
    def local_bytes(self) -> int:
        """Memory of the rows that this rank owns, in bytes."""
        return self._rows.local.nbytes

    def sample(self, index: Tensor, step: int, *, stream: str = "regular") -> BankSample:
        """Read the rows that a minibatch is contrasted with: the anchors' own and K negatives for each.

        As :meth:`ask`, but they are here.
        """
        return self.ask(index, step, stream=stream).wait()

    def ask(
        self, index: Tensor, step: int, *, stream: str = "regular", global_index: Tensor | None = None
    ) -> "AskedRows":
        """Ask the ranks that own them for the rows that a minibatch is contrasted with, which come in the background.

        A collective call: every rank passes the same step and stream and a batch of the same size (with gloo, another
        size aborts the process: drop a last short batch).

        Args:
            index: data set indices of this rank's anchors, integers [B].
            step: number of the training step.
            stream: name of an independent sequence of draws within a step.
            global_index: indices of all ranks' anchors, rank by rank, int64 [W * B] on the CPU; None to gather them.

        Raises:
            IndexError: an index of any rank lies outside the bank; the message names it.
            ValueError: `index` is not of integers [B].
        """
        global_index = self._checked(index, global_index)
        random = draws.generator("draw", stream, self.seed, step)
        if self.sampling == "per_anchor":
            return self._per_anchor(global_index, len(index), random)
        return self._shared(global_index, index.detach().to("cpu", torch.int64), random)

    def recall(self, index: Tensor, step: int, rows: Tensor | None) -> BankSample:
        """What :meth:`sample` gave before the refresh of that step, the last one.

        A collective call.

        Args:
            index: data set indices of its anchors of this rank, integers [B].
            step: its number.
            rows: their own rows then, [S, B, D].
        """
        assert rows is not None
        global_index = self._checked(index)
        now = self.sample(index, step).positives
        self._rows.put(global_index, rows)
        sample = self.sample(index, step)
        self._rows.put(global_index, now)
        return sample

    def empty_rows(self, batch: int) -> Tensor:
        """Zeros [S, B, D]."""
        return self._rows.local.new_zeros(len(self._first_views), batch, self.feature_size)

    def refresh(self, sample: BankSample, features: Tensor) -> None:
        """M_s[n_i] <- normalise(m M_s[n_i] + (1 - m) z_v[i]), v the first view of slot s (Wu et al. 2018).

        A collective call. An image that occurs more than once in the global batch takes its last feature, in the order
        of the batch. A row that would not be finite stays as it is.

        Args:
            sample: what :meth:`sample` gave for this minibatch.
            features: z, unit features of this rank's anchors, [V, B, D].

        Raises:
            ValueError: the features have another shape.
        """
        expected = (self.views, *sample.positives.shape[1:])
        if features.shape != expected:
            raise ValueError(f"features {list(features.shape)} do not fit the sample's {list(expected)}")
        self._rows.mix_in(sample.global_index, self._of_slots(features), self.momentum)

    update = refresh

    def fill(self, index: Tensor, features: Tensor, global_index: Tensor | None = None) -> None:
        """M_s[n_i] <- z_v[i], whatever was there: for rows that begin as features of an untrained encoder.

        A collective call, as :meth:`sample`.

        Args:
            index: data set indices of this rank's images, integers [B].
            features: their unit features, [V, B, D].
            global_index: as for :meth:`ask`.

        Raises:
            IndexError, ValueError: see :meth:`sample`; features of another shape.
        """
        if features.shape != (self.views, len(index), self.feature_size):
            raise ValueError(
                f"features {list(features.shape)} do not fit {len(index)} indices in a bank of {self.views} views and "
                f"{self.feature_size} numbers"
            )
        self._rows.mix_in(self._checked(index, global_index), self._of_slots(features), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The rows, [N, S, D]: a plain tensor for a process alone, a `DTensor` sharded over the group otherwise.

        The seed is a setting and not in it: resume with the same one to draw the same negatives.
        """
        return {"rows": self._rows.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over rows of the form that :meth:`state_dict` gives (or all of them, as a plain tensor).

        Raises:
            ValueError: they are of another bank: another number of images or views, or another feature size.
        """
        self._rows.load(state["rows"])

    def _of_slots(self, features: Tensor) -> Tensor:
        """Features of the first view of each slot, [S, B, D]."""
        return features if len(self._first_views) == self.views else stacked(features, self._first_views)

    def _checked(self, index: Tensor, global_index: Tensor | None = None) -> Tensor:
        """Indices of the global minibatch on the CPU, which are gathered if they are not given."""
        if not _integers(index):
            raise ValueError(f"index must be integers [B], got {index.dtype} {list(index.shape)}")
        if global_index is None:
            index = index.detach().to("cpu", torch.int64)
            global_index = distributed.all_gather_equal(index, self._rows.local.device, self._rows.group)
        elif len(global_index) != self._rows.world * len(index):
            raise ValueError(
                f"global_index has {len(global_index)} images, expected the {len(index)} of each of {self._rows.world} "
                "ranks"
            )
        # All ranks look at all indices, so that every rank raises and none waits for another.
        outside = global_index[(global_index < 0) | (global_index >= self.size)]
        if len(outside):
            raise IndexError(
                f"index {int(outside[0])} is outside the memory bank of {self.size} rows: "
                "it must be built for the number of images in the data set"
            )
        return global_index

    def _per_anchor(self, global_index: Tensor, batch: int, random: torch.Generator) -> "AskedRows":
        """Rows for `batch` anchors of every rank, each with negatives of its own."""
        rows = _without(global_index[:, None], self.size, (len(global_index), self.negatives), random)
        own = torch.cat([global_index.view(-1, batch), rows.view(-1, batch * self.negatives)], 1)
        asked = self._rows.ask(own, global_index[:0])
        none = torch.empty(0, dtype=torch.int64, device=self._rows.local.device)

        def arrived() -> BankSample:
            positives, negatives = asked().split([batch, batch * self.negatives], dim=1)
            negatives = negatives.unflatten(1, (batch, self.negatives))
            return BankSample(global_index, positives, negatives, (none, none), positives[:, :0], self._slots)

        return AskedRows(arrived)

    def _shared(self, global_index: Tensor, index: Tensor, random: torch.Generator) -> "AskedRows":
        """Rows for this rank's anchors `index` [B], with one pool of negatives for those of all ranks."""
        batch = len(index)
        pool = torch.randint(self.size, (self.negatives,), generator=random)
        # A slot that hits the anchor's own row shows another image instead, drawn uniformly: P(row) stays 1 / (N - 1)
        # for each slot.
        substitutes = _without(global_index, self.size, (len(global_index),), random)
        own = torch.cat([global_index.view(-1, batch), substitutes.view(-1, batch)], 1)
        asked = self._rows.ask(own, pool)
        candidates = torch.isin(pool, index).nonzero().squeeze(1)
        anchors, places = (index[:, None] == pool[candidates]).nonzero(as_tuple=True)
        collisions = (self._rows.to_device(anchors), self._rows.to_device(candidates[places]))

        def arrived() -> BankSample:
            positives, substitutes, negatives = asked().split([batch, batch, self.negatives], dim=1)
            return BankSample(global_index, positives, negatives, collisions, substitutes, self._slots)

        return AskedRows(arrived)


class AskedRows:
    """Rows of the bank that were asked for, before the features are known that they are compared with.

    Args:
        arrived: waits for them.
    """

    divisible = True

    def __init__(self, arrived: Callable[[], BankSample]) -> None:
        self._arrived: Callable[[], BankSample] | None = arrived
        self._rows: BankSample | None = None

    def wait(self) -> BankSample:
        """The rows, once they are here."""
        if self._arrived is not None:
            # What was sent and received for them may go.
            self._rows, self._arrived = self._arrived(), None
        assert self._rows is not None
        return self._rows

    def keys(self, projections: Tensor) -> BankSample:
        """The rows, whatever the features."""
        return self.wait()


def _integers(index: Tensor) -> bool:
    return index.ndim == 1 and not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)


def _without(own: Tensor, size: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Uniform draws from range(size) without `own`, which broadcasts against `shape`."""
    drawn = torch.randint(size - 1, shape, generator=random)
    return drawn + (drawn >= own)
