import pytest
import torch

from metaug_ray.method.precision import autocast


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
@pytest.mark.parametrize("around", [None, torch.bfloat16])
@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_products_are_in_the_dtype_whatever_is_open_around(
    device: torch.device | str, around: torch.dtype | None, dtype: torch.dtype | None, expected: torch.dtype
) -> None:
    matrix = torch.ones(2, 2)
    with autocast("cpu", around), autocast(device, dtype):
        assert (matrix @ matrix).dtype == expected
