"""MetAug* over one process and several: losses, gradients, neighbours and the support set are the same.

Batch norm is synchronised over the ranks, in the generator too. The one process is compared with double
back-propagation besides.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from metaug_ray.choices import TargetKind
from metaug_ray.method import distributed
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.contrast import info_nce
from metaug_ray.method.meta_gradient import meta_gradient
from metaug_ray.method.model import Model
from metaug_ray.method.targets import BatchTargets
from tests.method.double_backward import double_backward
from tests.method.small_star import SIZE, make_crops, make_star, make_targets
from tests.ranks import run_ranks

BATCH = 8
RATE = 0.02
FORMS: tuple[TargetKind, ...] = ("batch", "neighbours")


def part_of(rank: int) -> slice:
    size = BATCH // distributed.world_size()
    return slice(rank * size, (rank + 1) * size)


def flat(parameters: Any, gradient: bool = True) -> Tensor:
    return torch.cat([(p.grad if gradient else p.detach()).flatten() for p in parameters])


def steps(rank: int, form: TargetKind, schedule: Any, accumulation: int = 1) -> dict[str, Tensor]:
    """Three steps on this rank's part of the batch; in parts, with batch norm fixed, which would see one of them."""
    model, targets = make_star(form, synchronized=True)
    assert model.generators is not None
    encoder = DistributedDataParallel(model.encoder) if distributed.world_size() > 1 else model.encoder
    model = Model(encoder, model.generators, model.objective)
    if accumulation > 1:
        for module in (encoder, model.generators):
            module.eval()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (model.encoder, model.generators)]
    metaug = MetAug(model, targets, *optimizers, MetaStep(schedule, RATE), accumulation=accumulation)
    seen: dict[str, Tensor] = {}
    for step in range(3):
        batches = [
            Minibatch([x[part_of(rank)] for x in make_crops(BATCH, seed)], torch.arange(BATCH)[part_of(rank)])
            for seed in (10 * step, 10 * step + 1)
        ]
        outcome = metaug.step(step, batches[0], batches[1] if schedule == "separate" else None)
        assert outcome.applied
        losses = torch.stack(list(outcome.losses))
        distributed.average([losses])
        seen[f"losses {step}"] = losses
        seen[f"theta gradient {step}"] = flat(model.encoder.parameters())
        if schedule != "lookahead" or step > 0:
            seen[f"omega gradient {step}"] = flat(model.generators.parameters())
        if form == "neighbours":
            seen[f"support set {step}"] = targets.state_dict()["rows"].clone()
    buffers = [*model.encoder.buffers(), *model.generators.buffers()]
    seen["statistics"] = torch.cat([buffer.flatten().double() for buffer in buffers])
    seen["theta"], seen["omega"] = (flat(m.parameters(), gradient=False) for m in (model.encoder, model.generators))
    return seen


def nt_xent(rank: int) -> tuple[Tensor, Tensor]:
    """SimCLR's loss of features that are given, and its gradient in them, of all ranks."""
    z = _features()[:, part_of(rank)].clone().requires_grad_()
    unit = F.normalize(z, dim=-1)
    keys = BatchTargets(2, SIZE).ask(torch.arange(BATCH), 0)
    loss = info_nce(*keys.similarities(unit, unit), temperature=0.2)
    loss.backward()
    assert z.grad is not None
    loss = loss.detach()
    distributed.average([loss])
    return loss, z.grad / distributed.world_size()


def _features() -> Tensor:
    return torch.randn(2, BATCH, SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def neighbours_of(rank: int) -> Tensor:
    projections = F.normalize(_features(), dim=-1)[:, part_of(rank)]
    keys: Any = make_targets("neighbours").ask(torch.arange(BATCH), 0).keys(projections)
    return keys.neighbours


def everything(rank: int) -> dict[str, Any]:
    scenarios = {f"{form}, fused": steps(rank, form, "fused") for form in FORMS}
    scenarios |= {f"{form}, lookahead": steps(rank, form, "lookahead") for form in FORMS}
    scenarios |= {f"{form}, separate": steps(rank, form, "separate") for form in FORMS}
    scenarios |= {f"{form}, in parts": steps(rank, form, "fused", accumulation=2) for form in FORMS}
    return {"steps": scenarios, "nt_xent": nt_xent(rank), "neighbours": neighbours_of(rank)}


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return everything(0)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_equal_one_process(ranks: int, one: dict[str, Any], tmp_path: Path) -> None:
    several = run_ranks(ranks, tmp_path, everything)
    for seen in several:
        for name, expected in one["steps"].items():
            for key, value in expected.items():
                error = (seen["steps"][name][key] - value).norm() / value.norm()
                assert error <= 1e-9, f"{name}, {key}: relative error {error:.1e}"
        torch.testing.assert_close(seen["nt_xent"][0], one["nt_xent"][0], rtol=1e-12, atol=0)
    gradients = torch.cat([seen["nt_xent"][1] for seen in several], 1)
    torch.testing.assert_close(gradients, one["nt_xent"][1], rtol=1e-9, atol=1e-12)
    neighbours = torch.cat([seen["neighbours"] for seen in several], 1)
    torch.testing.assert_close(neighbours, one["neighbours"], rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fused", [True, False])
def test_the_meta_gradient_is_that_of_double_backward(form: TargetKind, fused: bool) -> None:
    model, targets = make_star(form)
    assert model.generators is not None
    crops = make_crops(BATCH)
    output = model.encode(crops)
    keys = targets.ask(torch.arange(BATCH), 0).keys(output.projections)
    torch.autograd.backward(model.compare(output.features, keys).losses.total, inputs=list(model.encoder.parameters()))
    features = output.features if fused else None
    sample = keys if fused else targets.ask(torch.arange(BATCH), 0)
    meta_gradient(model, crops, sample, virtual_learning_rate=RATE, features=features)
    ours = flat(model.generators.parameters())
    exact = double_backward(make_star(form)[0], crops, keys, virtual_learning_rate=RATE)
    expected = torch.cat([gradient.flatten() for gradient in exact.omega])
    assert (ours - expected).norm() <= 1e-9 * expected.norm()
    plain = double_backward(make_star(form)[0], crops, keys, virtual_learning_rate=1e-12)
    first_order = torch.cat([gradient.flatten() for gradient in plain.omega])
    assert (first_order - expected).norm() >= 1e-3 * expected.norm()


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_a_minibatch_are_compared_with_all_of_it(form: TargetKind) -> None:
    """With batch norm fixed, as it sees a part otherwise."""
    gradients = []
    for accumulation in (1, 4):
        model, targets = make_star(form)
        assert model.generators is not None
        for module in (model.encoder, model.generators):
            module.eval()
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model.encoder, model.generators)]
        metaug = MetAug(model, targets, *optimizers, MetaStep("fused", RATE), accumulation=accumulation)
        outcome = metaug.step(0, Minibatch(make_crops(BATCH), torch.arange(BATCH)))
        gradients.append([*outcome.losses, *(flat(m.parameters()) for m in (model.encoder, model.generators))])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-13)


def test_the_support_set_moved(one: dict[str, Any]) -> None:
    rows = [one["steps"]["neighbours, fused"][f"support set {step}"] for step in range(3)]
    assert [int((a != b).any(-1).sum()) for a, b in pairwise(rows)] == [BATCH, BATCH]
    assert one["steps"]["neighbours, fused"]["omega gradient 0"].norm() > 1e-4


def test_one_image_is_too_few_for_heads_with_batch_norm() -> None:
    model, targets = make_star("neighbours")
    plain = Model(model.encoder, None, model.objective)
    metaug = MetAug(plain, targets, torch.optim.SGD(model.encoder.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="a minibatch of 1 is too small: give each rank at least 2"):
        metaug.step(0, Minibatch(make_crops(1), torch.arange(1)))
