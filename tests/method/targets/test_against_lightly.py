"""SimCLR's loss and NNCLR's neighbours against another library's, and NNCLR's loss against its paper's formula."""

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import NNMemoryBankModule
from torch import Tensor

from metaug_ray.method.contrast import info_nce
from metaug_ray.method.targets import BatchTargets, NeighbourTargets
from metaug_ray.method.targets.support_set import SupportSet

BATCH, SIZE, TEMPERATURE = 12, 16, 0.2
INDEX = torch.arange(BATCH)


def features(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(2, BATCH, SIZE, generator=generator, dtype=torch.float64), dim=-1)


def test_simclr_is_twice_lightlys_nt_xent() -> None:
    # It normalises by itself, so that the gradient is that in what comes before.
    ours, theirs = ((3 * features(0)).requires_grad_() for _ in range(2))
    unit = F.normalize(ours, dim=-1)
    loss = info_nce(*BatchTargets(2, SIZE).ask(INDEX, 0).similarities(unit, unit), temperature=TEMPERATURE)
    expected = 2 * NTXentLoss(TEMPERATURE)(theirs[0], theirs[1])
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(value, z)[0] for value, z in ((loss, ours), (expected, theirs))]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_neighbours_are_lightlys_over_several_batches() -> None:
    queue = NNMemoryBankModule(size=(3 * BATCH, SIZE))
    support = SupportSet(3 * BATCH, 1, SIZE, dtype=torch.float64)
    for seed in range(3):
        batch = features(seed)[0]
        queue(batch.float(), update=True)
        support.enqueue(batch.unsqueeze(0))
    targets = NeighbourTargets((0, 0), support, SIZE)
    asked = features(9)
    found = targets.neighbours(asked)
    # Theirs are kept in the type and order of its own; the rows tell.
    torch.testing.assert_close(
        found, torch.stack([queue(view.float()) for view in asked]).double(), rtol=1e-6, atol=1e-7
    )


def test_nnclr_is_the_softmax_over_neighbours_times_predictions() -> None:
    targets = NeighbourTargets((0, 0), SupportSet(64, 1, SIZE, dtype=torch.float64), SIZE)
    projections, predictions = features(1), features(2).requires_grad_()
    keys = targets.ask(INDEX, 0).keys(projections)
    loss = info_nce(*keys.similarities(predictions, predictions), temperature=TEMPERATURE)
    expected = sum(
        F.cross_entropy(keys.neighbours[v] @ predictions[u].T / TEMPERATURE, INDEX) for u, v in ((0, 1), (1, 0))
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, predictions)[0] for value in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
