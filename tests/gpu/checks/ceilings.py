"""The two ceilings that every other number is seen against: memory bandwidth and the rate of matrix products."""

from collections.abc import Iterator

import torch

from tests.gpu.setting import Row, Setting
from tests.gpu.timing import median_seconds


def ceilings(setting: Setting) -> Iterator[Row]:
    device, sizes = setting.device, setting.sizes
    source = torch.empty(sizes.copied_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, 5)
    rate = 2 * sizes.copied_bytes / seconds
    yield Row("copy on the device", f"{rate / 1e12:.2f} TB/s, read and written", numbers={"bytes_per_second": rate})

    side = sizes.product
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = median_seconds(lambda: a @ b, device, 10)
    rate = 2 * side**3 / seconds
    yield Row(f"product of {side} x {side} in bfloat16", f"{rate / 1e12:.0f} TFLOP/s", numbers={"flops": rate})
