"""One fused step under the profiler: kernels, gaps between them, and what they are."""

from collections.abc import Iterator
from functools import partial

from tests.gpu.case import make_metaug, make_minibatch
from tests.gpu.setting import Row, Setting, skipped
from tests.gpu.timing import median_seconds
from tests.gpu.trace import Trace, trace

KINDS = {
    "layouts, copies and casts": ("nchwtonhwc", "nhwctonchw", "converttensor", "copy", "memcpy", "catarray"),
    "batch norm": ("batch_norm", "batchnorm", "bn_"),
    "convolutions and products": ("conv", "xmma", "gemm", "cutlass", "nvjet", "grad", "cudnn"),
    "optimisers and sums of parameters": ("multi_tensor",),
    "reductions": ("reduce", "softmax", "norm"),
    "element by element": ("elementwise",),
}
"""Kernels by what their names contain, in small letters; the first that fits counts."""


def profile(setting: Setting) -> Iterator[Row]:
    if not setting.gpu:
        yield skipped("a fused step", "it takes a GPU's kernels apart")
        return
    case = setting.sizes.large
    metaug = make_metaug(case, setting.device)
    minibatch = make_minibatch(case, setting.device)
    step = partial(metaug.step, 0, minibatch)
    seconds = median_seconds(step, setting.device, setting.sizes.repeats)
    seen = trace(step, operators=True)
    setting.log(f"A fused step, batch {case.batch}\n{seen.table}\n{_listed(seen)}")
    # The gaps are those of a step that nobody watches.
    idle = max(0.0, 1 - seen.busy / seconds)
    measured = f"{seen.kernels} kernels in {1e3 * seconds:.0f} ms, of which the GPU idles {idle:.1%}"
    numbers = {"kernels": seen.kernels, "idle": idle, "seconds": seconds}
    yield Row(f"a fused step, batch {case.batch}", measured, numbers=numbers)
    whole = sum(its for _, _, its in seen.by_name)
    for kind, (count, its) in _by_kind(seen).items():
        yield Row(f"kernels: {kind}", f"{count}, {1e3 * its:.1f} ms, {its / whole:.1%}", numbers={"seconds": its})
    for name, count, its in seen.by_name[:10]:
        yield Row(f"`{name[:60]}`", f"{count}, {1e3 * its:.1f} ms, {its / whole:.1%}", numbers={"seconds": its})


def _by_kind(seen: Trace) -> dict[str, tuple[int, float]]:
    kinds = dict.fromkeys((*KINDS, "others"), (0, 0.0))
    for name, count, its in seen.by_name:
        kind = next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), "others")
        kinds[kind] = kinds[kind][0] + count, kinds[kind][1] + its
    return kinds


def _listed(seen: Trace) -> str:
    return "\n".join(f"{1e3 * its:9.2f} ms {count:6d} x {name}" for name, count, its in seen.by_name[:60])
