"""Where today's design ends: what grows with images or workers and is not divided among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from metaug_ray.capacity.disk import Disk, staging_seconds
from metaug_ray.capacity.lines import GB, GIB, Known, Line, Refused
from metaug_ray.runtime.words import duration

_FEW: Final = 16
"""Images over which a worker's batch norm should at least have its statistics."""
_SHARE: Final = 0.05
"""Of the time, above which a cost of the host is told of."""
_START: Final = 600.0
_STAGING: Final = 12 * 3600.0
"""Seconds that workers wait for one another while betons are staged (metaug_ray/training/worker.py)."""
_INT32: Final = 2**31


@dataclass(frozen=True)
class Limit:
    """One end of the design.

    Attributes:
        what: meets it.
        holds: whether the plan stays on this side of it, on each number of GPUs.
        text: where it is, in a sentence.
    """

    what: str
    holds: bool
    text: str


@dataclass(frozen=True)
class Outlook:
    """What limits are judged by."""

    known: Known
    lines: Sequence[Line]
    """Of the numbers of GPUs on which the run would begin."""
    refused: Sequence[Refused]
    disk: Disk

    @property
    def greatest(self) -> Line:
        """Of the most GPUs."""
        return self.lines[-1]


def limits_of(outlook: Outlook) -> list[Limit]:
    """All of them; of a run that would begin nowhere, the first alone."""
    found = [_batch(outlook)]
    if outlook.lines:
        found += [limit for check in _CHECKS if (limit := check(outlook)) is not None]
    return found


def _batch(outlook: Outlook) -> Limit:
    run = outlook.known.settings.run
    parts, together = run.training.accumulation, run.training.sync_batch_norm
    few = [line.gpus for line in outlook.lines if line.images * (line.gpus if together else 1) // parts < _FEW]
    whose = "all workers'" if together else "one worker's"
    text = (
        f"batch norm has the statistics of {whose} images: below {_FEW} of them, let the batch grow with the GPUs "
        "(--plan.images-per-worker)"
    )
    if few:
        text += f"; that is so on {_counts(few)}"
    if outlook.refused:
        counts = _counts([refused.gpus for refused in outlook.refused])
        text += f". Refused on {counts}, as a worker would have too few or no whole number: {outlook.refused[0].reason}"
    return Limit("batch", not few and not outlook.refused, text)


def _gpu_memory(outlook: Outlook) -> Limit | None:
    plan, row = outlook.known.settings.plan, outlook.known.sizes.row
    over = [line.gpus for line in outlook.lines if line.gpu_memory > plan.gpu_memory]
    last = outlook.greatest
    room = plan.gpu_memory - (last.gpu_memory - last.bank)
    if row:
        most = max(0.0, room) * GIB * last.gpus / row
        text = (
            f"the bank's rows and a step fit {plan.gpu_memory:g} GiB up to {_images(most)} on {_gpus(last.gpus)}; "
            "bank.precision bfloat16 doubles that, training.accumulation saves a step's memory"
        )
    else:
        text = (
            f"a step takes {last.gpu_memory:.1f} of {plan.gpu_memory:g} GiB on {_gpus(last.gpus)}, however many "
            "images the data set has; training.accumulation saves memory"
        )
    return Limit("GPU memory", not over, text + _too_many(over))


def _main_memory(outlook: Outlook) -> Limit:
    plan = outlook.known.settings.plan
    over = [line.gpus for line in outlook.lines if line.node_memory > plan.node_memory]
    most = max(line.node_memory for line in outlook.lines)
    text = (
        f"the workers of a node take up to {most:,.0f} of its {plan.node_memory:,g} GiB: a process each, and the copy "
        "of its state that it writes a checkpoint from; images and their tables are mapped from the disk"
    )
    return Limit("main memory", not over, text + _too_many(over))


def _start(outlook: Outlook) -> Limit | None:
    known, host = outlook.known, outlook.known.settings.plan.host
    if not known.sizes.row:
        return None
    run = known.settings.run
    row = len(run.model.encoders) * run.model.feature_size * host.row_nanoseconds * 1e-9
    least, last = outlook.lines[0].gpus, outlook.greatest.gpus
    longest = known.data.images * row / least
    text = (
        "at each start, after a failure too, a worker draws its rows of the bank: "
        f"{_time(longest)} on {_gpus(least)} and {_time(known.data.images * row / last)} on {last:,}, there ten "
        f"minutes at {_images(_START * last / row)}"
    )
    return Limit("start", longest <= _START, text)


def _exchange(outlook: Outlook) -> Limit | None:
    if not outlook.known.sizes.row:
        return None
    over = [line.gpus for line in outlook.lines if line.host > _SHARE * line.step]
    last = outlook.greatest
    text = (
        "each worker looks through the rows that each other one wants, on one CPU core before its GPU begins, "
        f"{1e3 * last.host:.1f} ms of a step on {_gpus(last.gpus)}"
    )
    if last.host:
        text += f"; {_SHARE:.0%} of a step of today's length at {_SHARE * last.step / last.host * last.gpus:,.0f} GPUs"
    return Limit("bank's rows", not over, text + _too_many(over))


def _draws(outlook: Outlook) -> Limit | None:
    bank = outlook.known.settings.run.bank
    if bank.sampling != "per_anchor" or not outlook.known.sizes.row:
        return None
    last = outlook.greatest
    received = last.images * bank.negatives * outlook.known.sizes.row / GIB
    text = (
        f"each worker draws the negatives of all workers' anchors, {last.batch * bank.negatives:,} numbers a step on "
        f"{_gpus(last.gpus)}, and gets {received:.1f} GiB of rows; bank.sampling shared draws {bank.negatives:,}"
    )
    return Limit("bank.sampling per_anchor", False, text)


def _large_shards(outlook: Outlook) -> Limit | None:
    known = outlook.known
    if not known.sizes.row:
        return None
    numbers = len(known.settings.run.model.encoders) * known.settings.run.model.feature_size
    images = known.data.images
    over = [line.gpus for line in outlook.lines if images / line.gpus * numbers >= _INT32]
    text = (
        f"2^31 numbers or more on a worker ({_images(_INT32 / numbers)}) are addressed by 64 bits, which was never "
        "tried on a GPU"
    )
    return Limit("bank's rows of a worker", not over, text + _too_many(over))


def _staging(outlook: Outlook) -> Limit:
    known, plan = outlook.known, outlook.known.settings.plan
    nodes = -(-outlook.greatest.gpus // plan.gpus_per_node)
    took = staging_seconds(known, nodes)
    here = known.data.bytes_on(nodes)
    fits = known.data.images * plan.node_disk * GB / here
    most = min(fits, known.data.images * _STAGING / took)
    copying = f"{nodes:,} nodes at once copy theirs" if nodes > 1 else "one node copies it"
    whole = ", all of the one beton (--shards deals it)" if known.data.shards == 1 else ""
    text = (
        f"a node stages {here / GB:,.0f} GB{whole}, and workers wait for it for 12 hours at most; {copying} in "
        f"{_time(took)}, so it ends at {_images(most)} "
        f"({plan.node_disk:,.0f} GB are full at {_images(fits)})"
    )
    return Limit("staging", known.data.images <= most, text)


def _checkpoint(outlook: Outlook) -> Limit:
    known, disk, plan = outlook.known, outlook.disk, outlook.known.settings.plan
    minutes = known.settings.run.checkpoint.every_minutes
    text = (
        f"{disk.checkpoint / GB:,.1f} GB, {_time(disk.checkpoint_seconds)} to write at {plan.storage_rate:g} GB/s; "
        f"{disk.replicated / GB:,.1f} GB of it by the first worker alone"
    )
    holds = True
    if minutes is not None:
        holds = disk.checkpoint_seconds <= 60 * minutes
    if minutes is not None and known.sizes.row:
        most = max(0.0, 60 * minutes * plan.storage_rate * GB - disk.replicated) / known.sizes.row
        text += f"; longer than the {minutes:g} minutes between two from {_images(most)} on"
    return Limit("checkpoint", holds, text)


_CHECKS: Final[tuple[Callable[[Outlook], Limit | None], ...]] = (
    _gpu_memory,
    _main_memory,
    _start,
    _exchange,
    _draws,
    _large_shards,
    _staging,
    _checkpoint,
)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _images(count: float) -> str:
    return f"{count / 1e6:,.0f} million images" if count >= 1e7 else f"{count:,.0f} images"


def _gpus(count: int) -> str:
    return f"{count:,} GPU{'' if count == 1 else 's'}"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def _counts(gpus: Sequence[int]) -> str:
    return f"{', '.join(f'{count:,}' for count in gpus)} GPU{'' if list(gpus) == [1] else 's'}"


def _too_many(gpus: Sequence[int]) -> str:
    return f"; past it on {_counts(gpus)}" if gpus else ""
