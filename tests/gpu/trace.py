"""What the GPU does during a call, by PyTorch's profiler."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile


class Trace(NamedTuple):
    """A call, profiled. All times are in seconds."""

    kernels: int
    """Kernels and copies that the GPU ran."""
    busy: float
    """For how long it ran at least one."""
    host: float
    """For how long the host was in the call. The profiler slows it down."""
    waits: float
    """For how long of this it waited for the GPU."""
    by_name: list[tuple[str, int, float]]
    """Kernels by name: how often, for how long in all; the longest first."""
    table: str
    """The operators that launched them, as the profiler lists them; empty unless it was asked for them."""


def trace(call: Callable[[], Any], *, operators: bool = False) -> Trace:
    """Profile a call on a GPU.

    Args:
        call: must have been made before: the first call of all does more.
        operators: whether to look at the operators too, which slows the host down more.
    """
    torch.cuda.synchronize()
    activities = [ProfilerActivity.CUDA, *([ProfilerActivity.CPU] if operators else [])]
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        call()
        host = time.perf_counter() - began
        torch.cuda.synchronize()
    events = profiler.events()
    assert events is not None
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and not _is_annotation(event)]
    if not kernels and not operators:
        # Some versions of the profiler see a GPU's kernels only beside the operators that launch them.
        return trace(call, operators=True)
    spans = sorted((event.time_range.start / 1e6, event.time_range.end / 1e6) for event in kernels)
    # `torch.cuda.synchronize` above waits for the device; what the call waits for is a stream or an event.
    waits = sum(
        event.time_range.elapsed_us() / 1e6
        for event in events
        if event.device_type == DeviceType.CPU and event.name in ("cudaStreamSynchronize", "cudaEventSynchronize")
    )
    counts: Counter[str] = Counter()
    total: dict[str, float] = defaultdict(float)
    for event in kernels:
        counts[event.name] += 1
        total[event.name] += event.time_range.elapsed_us() / 1e6
    return Trace(
        len(kernels),
        busy_seconds(spans),
        host,
        waits,
        [(name, counts[name], its) for name, its in sorted(total.items(), key=lambda item: -item[1])],
        _operators(profiler) if operators else "",
    )


def _operators(profiler: profile) -> str:
    return str(profiler.key_averages().table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=80))


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans, which come sorted."""
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def _is_annotation(event: Any) -> bool:
    """Whether an event only names a stretch of time, such as a step of an optimiser."""
    return bool(getattr(event, "is_user_annotation", False)) or event.name.startswith(("ProfilerStep", "Optimizer."))
