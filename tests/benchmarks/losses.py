"""The losses of a hundred steps in float64, of one process and of four: `python -m tests.benchmarks.losses`.

`--output` keeps them, and `--against` compares them with those that another version kept. Batch norm is fixed, as each
rank would see other statistics; networks are small, and batches and bank rows the same for all.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Final

import torch
from torch.nn.parallel import DistributedDataParallel

from metaug_ray.method import distributed
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from tests.method.small import freeze_batch_norm, make_bank, make_images, make_model
from tests.ranks import run_ranks

KINDS: Final = {
    "fused": MetaStep("fused", 0.01),
    "separate": MetaStep("separate", 0.01),
    "lookahead": MetaStep("lookahead"),
}
BATCH, IMAGES, RANKS = 8, 203, 4


def losses(rank: int, steps: int) -> dict[str, list[float]]:
    """By kind, the mean over the ranks at each step."""
    return {kind: _train(rank, steps, meta) for kind, meta in KINDS.items()}


def _train(rank: int, steps: int, meta: MetaStep) -> list[float]:
    world = distributed.world_size()
    model = make_model()
    assert model.generators is not None
    for module in (model.encoder, model.generators):
        freeze_batch_norm(module)
    encoder = DistributedDataParallel(model.encoder) if world > 1 else model.encoder
    objective = Objective(model.objective.contrast, delta=0.1, alpha=0.1)
    model = Model(encoder, model.generators, objective)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05) for each in (encoder, model.generators)]  # type: ignore[union-attr]
    metaug = MetAug(model, make_bank(), optimizers[0], optimizers[1], meta)
    part = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    # Earlier versions' minibatches have no indices of other ranks.
    tells = "global_indices" in Minibatch._fields
    seen = []
    for step in range(steps):
        indices = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(step))[:BATCH]
        batches = [
            Minibatch([x[part] for x in make_images(BATCH, seed=2 * step + more)], indices[part], *[indices] * tells)
            for more in range(1 + (meta.schedule == "separate"))
        ]
        loss = metaug.step(step, *batches).losses.total.clone()
        distributed.average([loss])
        seen.append(float(loss))
    return seen


def _apart(ours: list[float], others: list[float]) -> str:
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, others, strict=True)]
    equal = sum(difference == 0 for difference in differences)
    return f"{max(differences):.1e}, {equal} of {len(ours)} equal bit for bit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, help="file to keep the losses in")
    parser.add_argument("--against", type=Path, help="file of another version's losses")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        several = run_ranks(RANKS, Path(folder), losses, options.steps)[0]
    made = {"1": losses(0, options.steps), str(RANKS): several}
    if options.output is not None:
        options.output.write_text(json.dumps(made) + "\n", encoding="utf-8")
    print(f"| {options.steps} steps | first and last loss | {RANKS} processes and one apart by | another version |")
    print("|---|---|---|---|")
    before = None if options.against is None else json.loads(options.against.read_text(encoding="utf-8"))
    for kind, ours in made["1"].items():
        other = "" if before is None else "; ".join(f"{n}: {_apart(made[n][kind], before[n][kind])}" for n in made)
        print(f"| {kind} | {ours[0]:.6f}, {ours[-1]:.6f} | {_apart(several[kind], ours)} | {other} |")


if __name__ == "__main__":
    main()
