"""Peak memory and speed by batch size; too large a batch is a result, not a fault."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from metaug_ray.method.targets.memory_bank import MemoryBank
from tests.gpu.case import Case, make_bank, make_metaug, make_minibatch
from tests.gpu.room import free_memory, unless_out_of_memory
from tests.gpu.setting import Row, Setting, skipped
from tests.gpu.timing import median_seconds

SECONDS_NEEDED = 15.0
"""That must be left for the next size to begin: tuning of its convolutions, and three steps."""


def memory(setting: Setting) -> Iterator[Row]:
    large = setting.sizes.large
    bank = make_bank(large, setting.device)
    kinds = {
        "plain": large.plain(),
        "fused": large,
        "fused, activations kept": replace(large, keep_activations=True),
        "lookahead, activations kept": replace(large, schedule="lookahead", keep_activations=True),
    }
    too_large: set[str] = set()
    for batch, accumulation in setting.sizes.memory:
        for name, kind in kinds.items():
            if accumulation > 1 and kind.keep_activations:
                continue
            case = replace(kind, batch=batch, accumulation=accumulation)
            what = f"{name}, batch {batch}" + (f" in {accumulation} parts" if accumulation > 1 else "")
            if setting.left < SECONDS_NEEDED:
                yield skipped(what, "no time left")
            elif accumulation == 1 and name in too_large:
                yield Row(what, "out of memory, as the smaller batch was")
            else:
                seconds = unless_out_of_memory(partial(_seconds_of_a_step, case, setting, bank))
                if seconds is None:
                    too_large.add(name)
                    yield Row(what, "out of memory")
                else:
                    yield _row(what, setting, batch / seconds)
                free_memory()


def _row(what: str, setting: Setting, speed: float) -> Row:
    numbers = {"images_per_second": speed}
    if not setting.gpu:
        return Row(what, f"{speed:.0f} images/s", numbers=numbers)
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    numbers |= {"peak_bytes": float(peak), "reserved_bytes": float(reserved)}
    measured = f"{peak / 2**30:.1f} GiB ({reserved / 2**30:.1f} GiB reserved), {speed:.0f} images/s"
    return Row(what, measured, numbers=numbers)


def _seconds_of_a_step(case: Case, setting: Setting, bank: MemoryBank) -> float:
    metaug = make_metaug(case, setting.device, bank=bank)
    step = partial(metaug.step, 0, make_minibatch(case, setting.device))
    # The second one of `lookahead` has a meta step.
    for _ in range(2):
        step()
    if setting.gpu:
        # The first steps' peak is that of cuDNN, which tries algorithms. What is reserved still shows it.
        torch.cuda.reset_peak_memory_stats(setting.device)
    return median_seconds(step, setting.device, repeats=2, warm_up=0)
