"""Where the time of a fused step goes, and what the kinds of steps cost."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from unittest.mock import patch

from metaug_ray.method import algorithm
from metaug_ray.method import meta_gradient as module
from metaug_ray.method.linearization import Linearization
from metaug_ray.method.model import Model
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.views import split_views
from tests.gpu.case import VIEWS, Case, make_bank, make_images, make_metaug, make_minibatch
from tests.gpu.room import free_memory, unless_out_of_memory
from tests.gpu.setting import Row, Setting
from tests.gpu.timing import Stopwatch, median_seconds, synchronize

FORWARD_FLOPS = 24.3e9
"""Of an image's three views, 224 px, through three ResNet-50s."""
PEAK_FLOPS = 989e12
"""Of an H100 or H200 in bfloat16, dense, by its data sheet."""

# Forward and backward are three forward passes; the tangent makes three convolutions where a forward pass makes one, or
# two where its activations were kept.
FORWARDS = {
    "plain": 3.0,
    "fused": 9.0,
    "separate": 12.0,
    "fused, every 10": 3.6,
    "lookahead": 6.0,
    "lookahead, a quarter": 3.75,
    "fused, activations kept": 8.0,
    "lookahead, activations kept": 5.0,
    "lookahead, a quarter, kept": 3.5,
}


def passes(setting: Setting) -> Iterator[Row]:
    case = setting.sizes.large
    bank = make_bank(case, setting.device)
    seconds = unless_out_of_memory(lambda: _parts_of_a_step(case, setting, bank))
    if seconds is None:
        yield Row(f"batch {case.batch}", "out of memory: half of it from here on")
        case = replace(case, batch=case.batch // 2)
        seconds = _parts_of_a_step(case, setting, bank)
    free_memory()
    yield from _rows_of_parts("fused", seconds)
    kept = replace(case, schedule="lookahead", keep_activations=True)
    seconds = unless_out_of_memory(lambda: _parts_of_a_step(kept, setting, bank))
    free_memory()
    if seconds is not None:
        yield from _rows_of_parts("lookahead, kept", seconds)
    images = make_images(case, setting.device, case.batch)
    its = median_seconds(lambda: split_views(images, VIEWS), setting.device, setting.sizes.repeats)
    yield Row("views of a batch (not in the step)", f"{1e3 * its:.1f} ms", numbers={"seconds": its})

    kinds = {
        "plain": case.plain(),
        "fused": case,
        "separate": replace(case, schedule="separate"),
        "lookahead": replace(case, schedule="lookahead"),
        "lookahead, a quarter": replace(case, schedule="lookahead", share=0.25),
        "fused, every 10": replace(case, every=10),
        "fused, activations kept": replace(case, keep_activations=True),
        "lookahead, activations kept": replace(case, schedule="lookahead", keep_activations=True),
        "lookahead, a quarter, kept": replace(case, schedule="lookahead", share=0.25, keep_activations=True),
    }
    plain = None
    for name, kind in kinds.items():
        # Every tenth step is another: only ten tell what one costs.
        steps = 10 if kind.every > 1 and not setting.quick else 1
        its = unless_out_of_memory(partial(_seconds_of_a_step, kind, setting, bank, steps))
        free_memory()
        if its is None:
            yield Row(f"step {name}, batch {case.batch}", "out of memory")
            continue
        plain = its if plain is None else plain
        speed = case.batch / its
        measured = f"{1e3 * its:.1f} ms, {its / plain:.2f} x plain, {speed:.0f} images/s"
        numbers = {"seconds": its, "images_per_second": speed}
        if setting.gpu and not setting.quick:
            numbers["mfu"] = speed * FORWARD_FLOPS * FORWARDS[name] / PEAK_FLOPS
            measured += f", MFU {numbers['mfu']:.1%}"
        yield Row(f"step {name}, batch {case.batch}", measured, numbers=numbers)


def _rows_of_parts(kind: str, seconds: dict[str, float]) -> Iterator[Row]:
    whole = sum(seconds.values())
    for name, its in sorted(seconds.items(), key=lambda item: -item[1]):
        yield Row(f"{kind}: {name}", f"{1e3 * its:.1f} ms, {its / whole:.1%}", numbers={"seconds": its})


def _seconds_of_a_step(case: Case, setting: Setting, bank: MemoryBank, steps: int) -> float:
    """Mean seconds over `steps` steps, median over several times as many."""
    metaug = make_metaug(case, setting.device, bank=bank)
    minibatch, other = (make_minibatch(case, setting.device, seed) for seed in (1, 2))
    meta_minibatch = other if case.schedule == "separate" else None

    def call() -> None:
        for number in range(steps):
            metaug.step(number, minibatch, meta_minibatch)

    # The kinds share their convolutions, which the first step of all has tuned.
    repeats, warm_up = (1, 0) if steps > 1 else (setting.sizes.repeats, 2)
    if steps > 1:
        metaug.step(0, minibatch, meta_minibatch)
    return median_seconds(call, setting.device, repeats, warm_up) / steps


def _parts_of_a_step(case: Case, setting: Setting, bank: MemoryBank) -> dict[str, float]:
    """Seconds of each part of a step."""
    watch = Stopwatch(setting.device)
    metaug = make_metaug(case, setting.device, bank=bank)
    minibatch = make_minibatch(case, setting.device)
    for number in range(2):
        metaug.step(number, minibatch)
    synchronize(setting.device)
    with ExitStack() as stack:
        for owner, function, name in (
            (algorithm, "model_gradient", "regular forward and backward"),
            (module, "_virtual_gradient", "virtual step, forward and backward"),
            (module, "_forward_mode", "tangent (jvp)"),
            (Linearization, "tangent", "tangent of what was kept"),
            (module, "_second_order", "second order of the contrast"),
            (Model, "compare", "contrast, forward"),
            (MemoryBank, "ask", "bank: rows read"),
            (MemoryBank, "refresh", "bank: rows written"),
            (algorithm.MetAug, "_move_encoders", "optimisers"),
            (algorithm.MetAug, "_move_generators", "optimisers"),
            (algorithm.MetAug, "step", "rest: copies, norms, waiting"),
        ):
            stack.enter_context(patch.object(owner, function, watch.timed(name, getattr(owner, function))))
        for number in range(setting.sizes.repeats):
            metaug.step(number, minibatch)
        return {name: its / setting.sizes.repeats for name, its in watch.seconds().items()}
