"""One process against several on the same global batch: losses, gradients, bank rows and margins are the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from metaug_ray.method import distributed
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.contrast import NoiseContrastiveEstimation
from metaug_ray.method.margins import injected_margins
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank
from tests.method.small import IMAGES, freeze_batch_norm, make_bank, make_images, make_model
from tests.ranks import run_ranks

DISTINCT = [3, 150, 202, 77, 0, 101, 55, 12]
REPEATED = [3, 150, 3, 77, 0, 77, 3, 12]  # across ranks and, at two ranks, within one
SCENARIOS = {
    "fused": (MetaStep("fused", 0.01), "shared", DISTINCT),
    "fused, repeated": (MetaStep("fused", 0.01), "shared", REPEATED),
    "separate, per anchor": (MetaStep("separate", 0.01), "per_anchor", REPEATED),
    "lookahead": (MetaStep("lookahead"), "shared", REPEATED),
    "lookahead, activations kept": (MetaStep("lookahead", keep_activations=True), "shared", REPEATED),
}


OBJECTIVES: dict[str, dict[str, Any]] = {
    "fused": {},
    "fused, repeated": {"regularize_encoders": True},
    "separate, per anchor": {"regularize_encoders": True, "margin_scope": "anchor"},
    "lookahead": {},
    "lookahead, activations kept": {},
}


def full(bank: MemoryBank) -> Tensor:
    rows = bank.state_dict()["rows"]
    return (rows if isinstance(rows, Tensor) and not hasattr(rows, "full_tensor") else rows.full_tensor()).clone()


def two_steps(rank: int, name: str) -> dict[str, Any]:
    """Two training steps on this rank's part of the batch; everything that must not depend on the number of ranks."""
    meta, sampling, indices = SCENARIOS[name]
    world = distributed.world_size()
    part = slice(rank * len(indices) // world, (rank + 1) * len(indices) // world)
    model = make_model()
    contrast = model.objective.contrast
    model = replace(model, objective=Objective(contrast, delta=0.1, alpha=0.1, **OBJECTIVES[name]))
    assert model.generators is not None
    if rank > 0:  # DDP and MetAug must bring all ranks to the first one's parameters
        for parameter in [*model.encoder.parameters(), *model.generators.parameters()]:
            parameter.data.add_(1)
    freeze_batch_norm(model.encoder)
    freeze_batch_norm(model.generators)
    encoder = DistributedDataParallel(model.encoder) if world > 1 else model.encoder
    model = Model(encoder, model.generators, model.objective)
    assert model.generators is not None
    bank = make_bank(sampling=sampling)
    encoder_optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.05, momentum=0.9)
    generator_optimizer = torch.optim.SGD(model.generators.parameters(), lr=0.05)
    metaug = MetAug(model, bank, encoder_optimizer, generator_optimizer, meta)

    seen: dict[str, Any] = {}
    for step in range(2):
        batches = [
            Minibatch([x[part] for x in make_images(len(indices), seed=seed)], torch.tensor(indices)[part])
            for seed in (10 * step, 10 * step + 1)
        ]
        comparison = metaug.step(step, batches[0], batches[1] if meta.schedule == "separate" else None)
        loss = comparison.losses.total.clone()
        distributed.average([loss])
        seen[f"loss {step}"] = loss
        seen[f"margins {step}"] = torch.stack(injected_margins(*comparison.original))
        seen[f"bank {step}"] = full(bank)
        seen[f"theta gradient {step}"] = torch.cat([p.grad.flatten() for p in model.encoder.parameters()])
        if meta.schedule == "lookahead" and step == 0:  # there is no step before it
            continue
        seen[f"omega gradient {step}"] = torch.cat([p.grad.flatten() for p in model.generators.parameters()])
    seen["theta"] = torch.cat([p.detach().flatten() for p in model.encoder.parameters()])
    seen["omega"] = torch.cat([p.detach().flatten() for p in model.generators.parameters()])
    return seen


def all_scenarios(rank: int) -> dict[str, dict[str, Any]]:
    return {name: two_steps(rank, name) for name in SCENARIOS}


def nce_normalizer(rank: int) -> Tensor:
    """The first minibatch's normaliser."""
    world = distributed.world_size()
    part = slice(rank * len(DISTINCT) // world, (rank + 1) * len(DISTINCT) // world)
    bank = make_bank()
    features = torch.nn.functional.normalize(
        torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1
    )[:, part]
    contrast = NoiseContrastiveEstimation(2)
    contrast(*bank.sample(torch.tensor(DISTINCT)[part], 0).similarities(features))
    return contrast.log_normalizer


def refreshed_in_bfloat16(ranks: range) -> Tensor:
    """A bank after `ranks` have refreshed two rows each, the second one also the next rank's."""
    bank = make_bank(dtype=torch.bfloat16)
    sample = bank.sample(torch.tensor([row for rank in ranks for row in (rank, rank + 1)]), 0)
    bank.refresh(sample, torch.cat([sample.negatives[:, 2 * rank : 2 * rank + 2].float() for rank in ranks], 1))
    return full(bank)


def everything(rank: int, folder: Path) -> dict[str, Any]:
    bank = make_bank(dtype=torch.float32)
    dcp.save({"bank": bank}, checkpoint_id=folder / "bank")
    return {
        "scenarios": all_scenarios(rank),
        "nce": nce_normalizer(rank),
        "rows": full(bank),
        "bytes": bank.local_bytes,
        "bfloat16": refreshed_in_bfloat16(range(rank, rank + 1)),
        "outside": _message_of_index_outside(bank),
    }


def _message_of_index_outside(bank: MemoryBank) -> str:
    with pytest.raises(IndexError) as caught:
        bank.sample(torch.tensor([0, IMAGES if distributed.rank() == 0 else 1]), 0)  # one rank's mistake
    return str(caught.value)


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    return run_ranks(request.param, folder, everything, folder), folder


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, Any]]:
    return all_scenarios(0)


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_is_the_same(name: str, one: dict[str, Any], several: tuple[list[Any], Path]) -> None:
    for rank in several[0]:
        for key, expected in one[name].items():
            error = (rank["scenarios"][name][key] - expected).norm() / expected.norm()
            assert error <= 1e-9, f"{key}: relative error {error:.1e}"


def test_training_moved_something(one: dict[str, Any]) -> None:
    for seen in one.values():
        assert seen["omega gradient 1"].norm() > 1e-4
        assert (seen["bank 0"] - seen["bank 1"]).abs().amax() > 1e-2
        assert seen["loss 0"] != seen["loss 1"]


def test_nce_normalizer_is_that_of_the_global_batch(several: tuple[list[Any], Path]) -> None:
    for rank in several[0]:
        torch.testing.assert_close(rank["nce"], nce_normalizer(0), rtol=1e-12, atol=0)


def test_rows_and_bytes_are_sharded(several: tuple[list[Any], Path]) -> None:
    ranks, _ = several
    alone = make_bank(dtype=torch.float32)
    assert sum(rank["bytes"] for rank in ranks) == alone.local_bytes
    assert max(rank["bytes"] for rank in ranks) == -(-IMAGES // len(ranks)) * 2 * 32 * 4
    for rank in ranks:
        torch.testing.assert_close(rank["rows"], full(alone), rtol=0, atol=0)


def test_bfloat16_rows_are_refreshed_alike(several: tuple[list[Any], Path]) -> None:
    ranks, _ = several
    expected = refreshed_in_bfloat16(range(len(ranks)))
    assert expected.dtype == torch.bfloat16
    for rank in ranks:
        torch.testing.assert_close(rank["bfloat16"], expected, rtol=0, atol=0)


def test_index_outside_is_named_on_every_rank(several: tuple[list[Any], Path]) -> None:
    for rank in several[0]:
        assert "index 203 is outside the memory bank of 203 rows" in rank["outside"]


def load_bank(_rank: int, folder: Path) -> Tensor:
    bank = make_bank(dtype=torch.float32, seed=99)
    dcp.load({"bank": bank}, checkpoint_id=folder / "bank")
    return full(bank)


def test_saved_by_some_ranks_loads_on_others(several: tuple[list[Any], Path], tmp_path: Path) -> None:
    ranks, folder = several
    expected = ranks[0]["rows"]
    assert not torch.equal(full(make_bank(dtype=torch.float32, seed=99)), expected)
    torch.testing.assert_close(load_bank(0, folder), expected, rtol=0, atol=0)
    if len(ranks) == 4:
        for loaded in run_ranks(2, tmp_path, load_bank, folder):
            torch.testing.assert_close(loaded, expected, rtol=0, atol=0)


def test_an_encoder_without_ddp_is_refused(tmp_path: Path) -> None:
    for message in run_ranks(2, tmp_path, _message_without_ddp):
        assert "the encoder of 2 ranks is not wrapped in DistributedDataParallel" in message


def _message_without_ddp(_rank: int) -> str:
    model = make_model()
    assert model.generators is not None
    assert dist.is_initialized()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is asserted by the caller)
        MetAug(model, make_bank(), *[torch.optim.SGD(model.generators.parameters(), lr=0.1)] * 2)
    return str(caught.value)
