"""Memory bank and contrast of one step: shared negatives against a gather per anchor that every contrast repeats.

Run `uv run python -m tests.benchmarks.bank_and_contrast` (a minute on two cores). A fused step evaluates six
contrasts: L_ori and L_aug of the regular step, of the virtual step, and once more for the mixed derivative.
"straightforward" is what such code usually does, and the authors' does: each contrast draws B x K rows, gathers them
from the bank of each view and multiplies anchor by anchor. Forward and backward to the features, and the refresh. The
floor is the products of the six contrasts, forward and backward, alone: (B D) (D K) for every pair.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from metaug_ray.choices import NegativeSampling
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.unit_vectors import unit

BETA, GAMMA = 16.0, 0.25


def ours(
    args: argparse.Namespace, sampling: NegativeSampling, features: Tensor, device: torch.device
) -> Callable[[int, Tensor], None]:
    bank = MemoryBank(args.size, args.views, args.dim, negatives=args.negatives, sampling=sampling, device=device)

    def step(number: int, index: Tensor) -> None:
        sample = bank.sample(index, number)
        for _ in range(args.contrasts):
            z = features.detach().requires_grad_()
            unified_contrast(*sample.similarities(z), beta=BETA, gamma=GAMMA).backward()
        bank.refresh(sample, features)

    return step


def straightforward(args: argparse.Namespace, features: Tensor, device: torch.device) -> Callable[[int, Tensor], None]:
    banks = [unit(torch.randn(args.size, args.dim, device=device)) for _ in range(args.views)]

    def step(_: int, index: Tensor) -> None:
        index = index.to(device)
        for _ in range(args.contrasts):
            z = features.detach().requires_grad_()
            drawn = torch.randint(args.size, (args.batch, args.negatives), device=device)
            drawn = torch.cat([index[:, None], drawn], 1)
            gathered = [bank.index_select(0, drawn.flatten()).view(*drawn.shape, args.dim) for bank in banks]
            positives, negatives = [], []
            for u in range(args.views):
                for v in range(args.views):
                    if u != v:
                        similarity = (1 + torch.bmm(gathered[v], z[u].unsqueeze(2)).squeeze(2)) / 2
                        positives.append(similarity[:, :1])
                        negatives.append(similarity[:, 1:])
            loss = unified_contrast(torch.cat(positives, 1), torch.cat(negatives, 1), beta=BETA, gamma=GAMMA)
            loss.backward()
        for bank, z in zip(banks, features, strict=True):
            bank[index] = unit(0.5 * bank[index] + 0.5 * z)

    return step


def products(args: argparse.Namespace, features: Tensor, device: torch.device) -> Callable[[int, Tensor], None]:
    pairs = args.views * (args.views - 1)
    queries = features[0].repeat(pairs, 1, 1)
    keys = torch.randn(pairs, args.negatives, args.dim, device=device)
    gradient = torch.randn(pairs, args.batch, args.negatives, device=device)

    def step(_: int, __: Tensor) -> None:
        for _ in range(args.contrasts):
            torch.bmm(queries, keys.transpose(1, 2))
            torch.bmm(gradient, keys)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--contrasts", type=int, default=6)
    parser.add_argument("--size", type=int, default=50_000, help="images in the bank")
    parser.add_argument("--steps", type=int, default=7, help="steps measured, after one to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    features = unit(torch.randn(args.views, args.batch, args.dim, device=device))
    steps = {
        "products alone (floor)": products(args, features, device),
        "shared negatives": ours(args, "shared", features, device),
        "per-anchor negatives, gathered once": ours(args, "per_anchor", features, device),
        "straightforward": straightforward(args, features, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.steps + 1):
        for name, step in steps.items():
            index = torch.randperm(args.size)[: args.batch]
            start = time.perf_counter()
            step(number, index)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    shape = ", ".join(
        f"{key} {getattr(args, key)}" for key in ("batch", "negatives", "dim", "views", "contrasts", "size")
    )
    print(f"{shape}, {device}, {torch.get_num_threads()} threads\n")
    print("| | ms per step | straightforward / this |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median * 1e3:.1f} | {medians['straightforward'] / median:.1f} |")


if __name__ == "__main__":
    main()
