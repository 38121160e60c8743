"""The meta gradient of a fused step on this device, against double back-propagation in float64."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from metaug_ray.method import meta_gradient as module
from metaug_ray.method.linearization import Linearization
from metaug_ray.method.model import Model
from metaug_ray.method.targets.bank_sample import BankSample
from tests.gpu.case import Case, make_bank, make_minibatch, make_model
from tests.gpu.setting import Row, Setting, held
from tests.gpu.switches import switched
from tests.method.double_backward import double_backward

# The default. The second-order part is then some hundredths of the gradient, so far above the bar of float32.
LEARNING_RATE = 1e-3
FLOAT64_BAR, FLOAT32_BAR = 1e-9, 1e-3
"""Greatest errors."""
TF32_BAR, BFLOAT16_BAR = 0.99, 0.9
"""Least cosines."""


def meta_gradient(setting: Setting) -> Iterator[Row]:
    device = setting.device
    # The regulariser has a kink at each similarity's margin, too: its part is small here, and float64 sees it.
    case = replace(setting.sizes.gradient, delta=0.1, alpha=1e-3, bfloat16=False)
    exact = _exact(case, device)
    wide = _fused(case, device, torch.float64)
    second = exact - _first_order(case, device, torch.float64)
    error, share = _error(wide, exact), float(second.norm() / exact.norm())
    measured = f"error {error:.1e} (bar {FLOAT64_BAR:.0e}); the second-order part is {share:.1%} of the gradient"
    yield held("fused in float64", measured, error <= FLOAT64_BAR, error=error, second_order_share=share)
    kept = _error(_fused(replace(case, keep_activations=True), device, torch.float64), exact)
    measured = f"error {kept:.1e} (bar {FLOAT64_BAR:.0e})"
    yield held("fused in float64, activations kept", measured, kept <= FLOAT64_BAR, error=kept)
    # PyTorch's default, which we leave: TF32 in convolutions, not in matrix products.
    tf32 = {"TF32 off": (False, False), "TF32 by default": (True, False), "TF32 on": (True, True)}
    for name, switches in tf32.items() if setting.gpu else [("no TF32 here", (False, False))]:
        with _tf32(*switches):
            yield _judged(f"fused in float32, {name}", case, device, exact, second, switches[0])
    narrow = replace(case, bfloat16=True)
    yield _judged("fused in bfloat16", narrow, device, exact, second, True)
    yield _judged(
        "fused in bfloat16, activations kept", replace(narrow, keep_activations=True), device, exact, second, True
    )

    with _tf32(False, False):
        full = _fused(case, device, smooth=False)
    cosine = _cosine(_fused(narrow, device, smooth=False), full)
    measured = f"cosine {cosine:.5f} (bar {BFLOAT16_BAR})"
    yield held("with ReLUs, bfloat16 against float32", measured, cosine > BFLOAT16_BAR, cosine=cosine)


def _judged(what: str, case: Case, device: torch.device, exact: Tensor, second: Tensor, rounded: bool) -> Row:
    ours = _fused(case, device)
    error, cosine = _error(ours, exact), _cosine(ours, exact)
    second_error = _error(ours - _first_order(case, device), second)
    if rounded:
        bar = BFLOAT16_BAR if case.bfloat16 else TF32_BAR
        holds, said = cosine > bar, f"bar: cosine {bar}"
    else:
        holds, said = error <= FLOAT32_BAR, f"bar: error {FLOAT32_BAR:.0e}"
    measured = f"error {error:.1e}, cosine {cosine:.5f} ({said}); error of the second-order part {second_error:.1e}"
    return held(what, measured, holds, error=error, cosine=cosine, second_order_error=second_error)


def _exact(case: Case, device: torch.device) -> Tensor:
    gradients = double_backward(*_problem(case, device, torch.float64, True), virtual_learning_rate=LEARNING_RATE)
    return torch.cat([gradient.flatten() for gradient in gradients.omega])


def _fused(case: Case, device: torch.device, dtype: torch.dtype = torch.float32, *, smooth: bool = True) -> Tensor:
    """Our gradient, flat, in float64."""
    model, images, sample = _problem(case, device, dtype, smooth)
    assert model.generators is not None
    linearization = Linearization(model.eager_encoder, dtype=model.autocast) if case.keep_activations else None
    features = module.model_gradient(model, images, sample, linearization=linearization).output.features
    module.meta_gradient(
        model,
        images,
        sample,
        virtual_learning_rate=LEARNING_RATE,
        features=features,
        linearization=linearization,
    )
    return torch.cat([p.grad.flatten().double() for p in model.generators.parameters() if p.grad is not None])


def _first_order(case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Our gradient without its second-order part."""

    def nothing(_model: Model, images: Sequence[Tensor], *_direction: object) -> Tensor:
        return torch.zeros(len(images), len(images[0]), 1, dtype=dtype, device=device)

    with patch.object(module, "_forward_mode", nothing):
        return _fused(replace(case, keep_activations=False), device, dtype)


def _problem(
    case: Case, device: torch.device, dtype: torch.dtype, smooth: bool
) -> tuple[Model, list[Tensor], BankSample]:
    """A model, images and their bank rows.

    With `smooth`, the generators have GELUs in place of ReLUs. Where rounding puts one of a few thousand units on the
    other side of a ReLU's kink, the gradient differs by its whole share, in float32 by 1e-3 as often as not.
    """
    model = make_model(case, device)
    assert model.generators is not None
    if smooth:
        for generator in model.generators.generators:
            for name, part in generator.named_children():
                if isinstance(part, nn.ReLU):
                    setattr(generator, name, nn.GELU())
    for networks in (model.encoder, model.generators):
        networks.to(dtype)
    minibatch = make_minibatch(case, device)
    sample = make_bank(case, device, dtype).sample(minibatch.indices, 0)
    return model, [view.to(dtype) for view in minibatch.images], sample


@contextmanager
def _tf32(convolutions: bool, products: bool) -> Iterator[None]:
    with (
        switched(torch.backends.cudnn, allow_tf32=convolutions),
        switched(torch.backends.cuda.matmul, allow_tf32=products),
    ):
        yield


def _error(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


def _cosine(ours: Tensor, exact: Tensor) -> float:
    return float(ours @ exact / (ours.norm() * exact.norm()))
