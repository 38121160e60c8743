"""A step of few images: whether the GPU waits for the host. The same compiled is in `compiled.py`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.gpu.case import make_metaug, make_minibatch
from tests.gpu.setting import Row, Setting
from tests.gpu.timing import median_seconds
from tests.gpu.trace import trace

BUSY = 0.9
"""Share of a step for which a GPU computes that does not wait for the host."""


def small_batch(setting: Setting) -> Iterator[Row]:
    case = replace(setting.sizes.large, batch=setting.sizes.small_batch)
    for name, kind in (("plain", case.plain()), ("fused", case)):
        metaug = make_metaug(kind, setting.device)
        minibatch = make_minibatch(kind, setting.device)
        step = partial(metaug.step, 0, minibatch)
        seconds = median_seconds(step, setting.device, setting.sizes.repeats)
        measured = f"{1e3 * seconds:.1f} ms, {case.batch / seconds:.0f} images/s"
        numbers = {"seconds": seconds}
        if setting.gpu:
            seen = trace(step)
            share = seen.busy / seconds
            bound = "the GPU waits for the host" if share < BUSY else "the GPU is busy"
            measured += (
                f"; {seen.kernels} kernels busy for {1e3 * seen.busy:.1f} ms ({share:.0%}: {bound}); "
                f"under the profiler the host issues for {1e3 * (seen.host - seen.waits):.0f} ms "
                f"and waits for {1e3 * seen.waits:.0f} ms"
            )
            numbers |= {"kernels": seen.kernels, "busy": share, "issues": seen.host - seen.waits}
        yield Row(f"{name}, batch {case.batch}, eager", measured, numbers=numbers)
