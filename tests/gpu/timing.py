"""Seconds of what runs on a device, by its own clock where it is a GPU."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch


class Mark:
    """A moment in the device's work, which need not have come yet."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is None:
            self._seconds = time.perf_counter()
        else:
            self._event.record()

    def seconds_since(self, earlier: "Mark") -> float:
        """To be called when the device has done all its work."""
        if self._event is None:
            return self._seconds - earlier._seconds
        return float(earlier._event.elapsed_time(self._event)) / 1000  # type: ignore[union-attr]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(call: Callable[[], Any], device: torch.device, repeats: int, warm_up: int = 2) -> float:
    """Median seconds of a call, after some that are not counted."""
    for _ in range(warm_up):
        call()
    marks = [Mark(device)]
    for _ in range(repeats):
        call()
        marks.append(Mark(device))
    synchronize(device)
    return statistics.median(later.seconds_since(earlier) for earlier, later in pairwise(marks))


class Stopwatch:
    """Time by part, of functions that call one another: what an inner one takes does not count for the outer one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[str] = []
        self._spans: list[tuple[str, str | None, Mark, Mark]] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted as the part `name`."""

        def call(*arguments: Any, **options: Any) -> Any:
            outer = self._open[-1] if self._open else None
            self._open.append(name)
            begun = Mark(self._device)
            try:
                return function(*arguments, **options)
            finally:
                self._spans.append((name, outer, begun, Mark(self._device)))
                self._open.pop()

        return call

    def seconds(self) -> dict[str, float]:
        """Seconds by part, over all calls."""
        synchronize(self._device)
        total: dict[str, float] = defaultdict(float)
        for name, outer, begun, ended in self._spans:
            seconds = ended.seconds_since(begun)
            total[name] += seconds
            if outer is not None:
                total[outer] -= seconds
        return dict(total)
