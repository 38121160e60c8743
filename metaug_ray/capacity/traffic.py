"""What workers send one another in a training step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from metaug_ray.capacity.sizes import Sizes
from metaug_ray.config.pretrain import PretrainSettings

_EXTREMES: Final = 8  # two of float32
_DOUBLE: Final = 8
_BUCKET: Final = 25 * 2**20  # DDP's buckets of gradients

Kind = Literal["all_reduce", "reduce_gathered", "all_gather", "all_to_all"]


@dataclass(frozen=True)
class Collective:
    """One collective of a step, as each worker calls it.

    Attributes:
        name: what is sent.
        kind: how.
        payload: bytes of the tensor that is reduced; that a worker adds to what is gathered, or to what is
            reduced in the form of all that was gathered; or that it gets by an all-to-all, its own rows among them.
        calls: number of calls in a step that these bytes are spread over; a fraction where most steps make none.
    """

    name: str
    kind: Kind
    payload: float
    calls: float = 1.0

    def sent(self, workers: int) -> float:
        """Bytes that leave each of so many workers, the mean over them.

        A ring all-reduce sends 2 (n - 1) / n of its tensor (Patarasuk and Yuan 2009), as much as any other one must; of
        evenly spread rows (n - 1) / n belong to others; what is gathered goes to each of the others.
        """
        share = (workers - 1) / workers
        match self.kind:
            case "all_reduce":
                return 2 * share * self.payload
            case "reduce_gathered":
                return 2 * (workers - 1) * self.payload
            case "all_gather":
                return (workers - 1) * self.payload
            case "all_to_all":
                return share * self.payload


def collectives(run: PretrainSettings, sizes: Sizes, images: int, *, meta: bool) -> list[Collective]:
    """All collectives of one step, by the order of `metaug_ray.method.algorithm.MetAug.step`.

    What the loop asks besides every few steps is left out: the averages of a report, and whether a checkpoint is due.

    Args:
        run: settings.
        sizes: of the run.
        images: of each worker.
        meta: whether the step trains the generators.
    """
    method, parts = run.method, run.training.accumulation
    meta = meta and method.generators
    separate = meta and method.meta.schedule == "separate"
    lookahead = meta and method.meta.schedule == "lookahead"
    passes = 1 + meta + separate - lookahead
    extremes = _regularizations(run, passes, meta=meta) * (parts if method.targets == "bank" else 1)
    bank = method.targets == "bank"
    found = [
        *(_of_bank(run, sizes, images, 1 + separate) if bank else _of_batch(run, sizes, images, passes, meta=meta)),
        Collective(GRADIENTS, "all_reduce", passes * sizes.encoder, passes * (1 + math.ceil(sizes.encoder / _BUCKET))),
        Collective("gradients of the generators", "all_reduce", meta * sizes.generator, float(meta)),
        # Loss and three norms.
        Collective("whether all is finite", "all_reduce", (4 + separate) * _DOUBLE, 1 + separate),
        Collective("extremes for the margins", "all_reduce", extremes * _EXTREMES, extremes),
    ]
    return [each for each in found if each.payload]


def _of_bank(run: PretrainSettings, sizes: Sizes, images: int, minibatches: int) -> list[Collective]:
    """What the memory bank sends."""
    own, pool = own_rows(run, images), run.bank.negatives if run.bank.sampling == "shared" else 0
    return [
        Collective("rows of the bank for each anchor", "all_to_all", minibatches * own * sizes.row, minibatches),
        Collective("rows of the bank for all of them", "all_reduce", minibatches * pool * sizes.row, minibatches),
        Collective("rows written to the bank", "all_to_all", images * sizes.feature),
    ]


def _of_batch(run: PretrainSettings, sizes: Sizes, images: int, passes: int, *, meta: bool) -> list[Collective]:
    """What targets of the whole batch send: features, and gradients in them.

    Each comparison gathers them once, and with generators once more, for the augmented ones. A backward pass sends as
    many gradients; that of second order twice, and, where augmented features are themselves what is gathered, those in
    them once more; with lookahead, whose regular pass has a backward pass of the generators' own, twice.
    """
    each, neighbours = 1 + run.method.generators, run.method.targets == "neighbours"
    comparisons = passes + meta
    gradients = each * (passes + 2 * meta) + neighbours * (meta + (meta and passes == 1))
    found = [
        Collective(
            "features of the batch", "all_gather", comparisons * each * images * sizes.compared, comparisons * each
        ),
        Collective("gradients in them", "reduce_gathered", gradients * images * sizes.compared, gradients),
    ]
    if neighbours:
        found.append(Collective("rows of the support set", "all_gather", images * sizes.feature))
    return found


def own_rows(run: PretrainSettings, images: int) -> int:
    """Rows of the bank that a worker with so many images asks for in a step, and no other one."""
    return images * (1 + run.bank.negatives) if run.bank.sampling == "per_anchor" else 2 * images


GRADIENTS: Final = "gradients of the encoders"
"""Name of the collective that DDP overlaps with the backward pass."""


def mean_collectives(run: PretrainSettings, sizes: Sizes, images: int) -> list[Collective]:
    """The same for the mean step, where generators are trained on each n-th."""
    plain = collectives(run, sizes, images, meta=False)
    if not run.method.generators:
        return plain
    share = 1 / run.method.meta.every
    before = {each.name: each for each in plain}
    mean = []
    for each in collectives(run, sizes, images, meta=True):
        other = before.get(each.name, replace(each, payload=0, calls=0))
        mean.append(
            replace(
                each,
                payload=other.payload + share * (each.payload - other.payload),
                calls=other.calls + share * (each.calls - other.calls),
            )
        )
    return mean


def sent_in_a_step(found: Sequence[Collective], workers: int) -> float:
    """Bytes that leave each worker in a step."""
    return sum(each.sent(workers) for each in found)


def _regularizations(run: PretrainSettings, passes: int, *, meta: bool) -> int:
    """How often R_sigma is computed from the extremes of the whole minibatch, for each part of it."""
    method = run.method
    if not method.generators or method.margin_scope == "anchor":
        return 0
    if method.regularize_encoders:  # in each comparison: of the regular pass, of the virtual one, and at second order
        return passes + meta
    return int(meta)
