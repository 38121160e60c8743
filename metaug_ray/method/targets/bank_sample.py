"""The rows of the memory bank that one minibatch is compared with, and the comparison."""

from typing import NamedTuple

import torch
from torch import Tensor

from metaug_ray.method.precision import autocast
from metaug_ray.method.similarities import Similarities, ordered_pairs, similarity, stacked


class BankSample(NamedTuple):
    """The bank rows that one minibatch is contrasted with. All are constants: no gradient flows into the bank."""

    global_index: Tensor
    """Data set indices of the global minibatch, int64 [W * B], rank by rank, on the CPU."""
    positives: Tensor
    """M_s[n_i], [S, B, D]."""
    negatives: Tensor
    """M_s[n_k]: one pool for all anchors [S, K, D] (`shared`), or each anchor's own [S, B, K, D] (`per_anchor`)."""
    collisions: tuple[Tensor, Tensor]
    """Where the shared pool holds an anchor's own row: anchors i [C] and pool places k [C]."""
    substitutes: Tensor
    """Rows of another image, [S, B, D], that anchor i sees at its collisions ([S, 0, D] for `per_anchor`)."""
    slots: tuple[int, ...]
    """For each view, the slot of the bank that it is compared with, [V]."""

    @property
    def divisible(self) -> bool:
        """True: each anchor has its rows."""
        return True

    @property
    def rows(self) -> Tensor:
        """The anchors' own, which the step moves."""
        return self.positives

    def part(self, number: int, count: int) -> "BankSample":
        """What part `number` of `count` even parts of this rank's anchors is compared with; good for comparing, not for
        a refresh."""
        if count == 1:
            return self
        size = self.positives.shape[1] // count
        start, stop = number * size, (number + 1) * size
        own, places = self.collisions
        inside = (own >= start) & (own < stop)
        negatives = self.negatives if self.negatives.ndim == 3 else self.negatives[:, start:stop]
        return BankSample(
            self.global_index,
            self.positives[:, start:stop],
            negatives,
            (own[inside] - start, places[inside]),
            self.substitutes[:, start:stop],
            self.slots,
        )

    def keys(self, projections: Tensor) -> "BankSample":
        """Itself: the bank's rows do not depend on this minibatch's features."""
        return self

    def similarities(self, anchors: Tensor, features: Tensor | None = None) -> Similarities:
        """Compare the anchors of view u with bank rows of every other view v: positives d(z_u[i], M_v[n_i]), negatives
        d(z_u[i], M_v[n_k]).

        A shared pool is never repeated per anchor: its similarities are one product [B, D] x [D, K] per pair.

        Args:
            anchors: z_u or a_u(z_u), unit vectors [V, B, D].
            features: not needed.

        Returns:
            float32 (float64 for float64 anchors) similarities, whatever autocast is on.

        Raises:
            ValueError: the anchors have another shape than the rows.
        """
        _, batch, feature_size = self.positives.shape
        if anchors.shape != (len(self.slots), batch, feature_size):
            raise ValueError(
                f"anchors {list(anchors.shape)} do not fit the sample's {[len(self.slots), batch, feature_size]}"
            )
        pairs = ordered_pairs(len(self.slots))
        queries, keys = [u for u, _ in pairs], [self.slots[v] for _, v in pairs]
        dtype = torch.promote_types(anchors.dtype, torch.float32)
        bank_positives, bank_negatives, substitutes = (
            rows.to(dtype) for rows in (self.positives, self.negatives, self.substitutes)
        )
        # beta = 256 magnifies the 2^-9 that bfloat16 leaves of d to half a unit in the exponent.
        with autocast(anchors.device, None):
            queried = stacked(anchors.to(dtype), queries)
            positives = similarity(torch.einsum("pbd,pbd->bp", queried, stacked(bank_positives, keys)))
            if self.negatives.ndim == 4:
                dots = [
                    torch.einsum("bd,bkd->bk", anchor, bank_negatives[v])
                    for anchor, v in zip(queried, keys, strict=True)
                ]
                return Similarities(positives, similarity(torch.stack(dots, dim=1)))
            half = queried.new_full((1, 1, 1), 0.5)
            negatives = torch.baddbmm(half, queried, stacked(bank_negatives, keys).transpose(1, 2), alpha=0.5)
            own, places = self.collisions
            if len(own):
                substitute = similarity(torch.einsum("pbd,pbd->pb", queried, stacked(substitutes, keys)))
                negatives[:, own, places] = substitute[:, own]
            return Similarities(positives, negatives.transpose(0, 1))
