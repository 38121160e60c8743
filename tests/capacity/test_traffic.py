"""Bytes of a step: by hand, and against what two gloo processes really move."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from metaug_ray.capacity.sizes import Sizes, sizes_of
from metaug_ray.capacity.traffic import Collective, collectives, mean_collectives, sent_in_a_step
from metaug_ray.config import PretrainSettings
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.views import split_views
from metaug_ray.training.state import build_state
from tests.ranks import run_ranks
from tests.sockets import received_bytes
from tests.training.small import small_settings

SAMPLES, IMAGES = 203, 4
KINDS: dict[str, Callable[..., int]] = {
    "all_reduce": lambda tensor, *_, **__: tensor.nbytes,
    "all_gather_single": lambda output, tensor, *_, **__: tensor.nbytes,
    "all_to_all_single": lambda output, *_, **__: output.nbytes,
    "_broadcast_coalesced": lambda group, tensors, *_: sum(tensor.nbytes for tensor in tensors),
}
"""The functions of torch.distributed that a step calls, and the bytes of their arguments that count."""
NAMES = {"all_gather_single": "all_gather", "all_to_all_single": "all_to_all", "_broadcast_coalesced": "broadcast"}

_TWO_CROPS: dict[str, Any] = {"model": {"views": ("rgb", "rgb.2")}, "bank": {"negatives": 4096}}
RUNS: dict[str, dict[str, Any]] = {
    "fused": {},
    "without generators": {"method": {"generators": False}},
    "separate": {"method": {"meta": {"schedule": "separate"}}, "bank": {"sampling": "per_anchor"}},
    "in parts, regularised": {"method": {"regularize_encoders": True}, "training": {"accumulation": 2}},
    "SimCLR": {"method": {"targets": "batch", "contrast": "info_nce", "generators": False}} | _TWO_CROPS,
    "MetAug on SimCLR": {"method": {"targets": "batch"}} | _TWO_CROPS,
    "MetAug*": {"method": {"targets": "neighbours"}} | _TWO_CROPS,
    "MetAug*, separate": {"method": {"targets": "neighbours", "meta": {"schedule": "separate"}}} | _TWO_CROPS,
    "lookahead": {"method": {"meta": {"schedule": "lookahead", "every": 1, "share": 0.5}}},
    "MetAug on SimCLR, lookahead": {
        "method": {"targets": "batch", "meta": {"schedule": "lookahead", "every": 1}},
    }
    | _TWO_CROPS,
    "MetAug*, lookahead": {
        "method": {"targets": "neighbours", "meta": {"schedule": "lookahead", "every": 1}},
    }
    | _TWO_CROPS,
    "MetAug*, in parts": {"method": {"targets": "neighbours"}, "training": {"accumulation": 2}} | _TWO_CROPS,
    "bfloat16 rows, margins by anchor": {"method": {"margin_scope": "anchor"}, "bank": {"precision": "bfloat16"}},
}


def run_of(name: str) -> PretrainSettings:
    model = {"encoder": "conv", "small_images": True}
    settings = small_settings(Path("/none.beton"), model=model, training={"batch_size": 2 * IMAGES})
    changes = RUNS[name]
    merged = settings.model_dump()
    for part, values in changes.items():
        for key, value in values.items():
            merged[part][key] = merged[part][key] | value if isinstance(value, dict) else value
    return PretrainSettings.model_validate(merged)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes that this process hands to each collective."""
    found: Counter[str] = Counter()

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            found[NAMES.get(name, name)] += KINDS[name](*arguments, **options)
            return real(*arguments, **options)

        return call

    with ExitStack() as stack:
        for name in KINDS:
            stack.enter_context(patch.object(dist, name, counting(name, getattr(dist, name))))
        yield found


class Step(NamedTuple):
    """What one process did in a step: whether it trained generators, its bytes by kind, and those that arrived."""

    meta: bool
    found: Counter[str]
    received: int


def moved(rank: int) -> dict[str, list[Step]]:
    """Two steps of each run."""
    steps: dict[str, list[Step]] = {}
    for name in RUNS:
        run = run_of(name)
        state = build_state(run, SAMPLES, torch.device("cpu"))
        wrapper = state.metaug.model.distributed_encoder
        assert wrapper is not None
        # DDP reduces in C++, unless it is told how.
        wrapper.register_comm_hook(None, allreduce_hook)
        steps[name] = []
        for step in (0, 1):  # one of them trains generators
            before = received_bytes()
            with counted() as found:
                meta = state.metaug.takes_meta_step(step)
                separate = meta and run.method.meta.schedule == "separate"
                state.metaug.step(step, minibatch(rank, run), minibatch(rank, run) if separate else None)
            steps[name].append(Step(meta, found, received_bytes() - before))
    return steps


def minibatch(rank: int, run: PretrainSettings) -> Minibatch:
    images = torch.randint(256, (IMAGES, 3, 16, 16), dtype=torch.uint8)
    of_ranks = [torch.arange(IMAGES) + 50 * each for each in (0, 1)]
    return Minibatch(split_views([images] * run.model.crops, run.model.views), of_ranks[rank], torch.cat(of_ranks))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Step]]]:
    return run_ranks(2, tmp_path_factory.mktemp("ranks"), moved)


@pytest.mark.parametrize("name", RUNS)
def test_bytes_are_those_that_two_processes_move(ranks: list[dict[str, list[Step]]], name: str) -> None:
    """Exactly, over both processes: of the rows written, either one gets as many as it happens to own."""
    run = run_of(name)
    steps = list(zip(*(rank[name] for rank in ranks), strict=True))
    for first, second in steps:
        expected: Counter[str] = Counter()
        for each in collectives(run, sizes_of(run), IMAGES, meta=first.meta):
            # What was gathered is reduced whole.
            kind, times = ("all_reduce", 2) if each.kind == "reduce_gathered" else (each.kind, 1)
            expected[kind] += 2 * times * int(each.payload)
        assert first.found + second.found == expected
    lookahead = run.method.meta.schedule == "lookahead"
    assert [first.meta for first, _ in steps] == [run.method.generators and not lookahead, lookahead]


@pytest.mark.parametrize("name", RUNS)
def test_what_is_sent_arrives(ranks: list[dict[str, list[Step]]], name: str) -> None:
    """By the kernel's own count, over both processes: gloo's headers and two barriers come on top."""
    run = run_of(name)
    for first, second in zip(*(rank[name] for rank in ranks), strict=True):
        sent = 2 * sent_in_a_step(collectives(run, sizes_of(run), IMAGES, meta=first.meta), 2)
        assert sent <= first.received + second.received <= 1.02 * sent + 20_000


def test_what_leaves_a_worker() -> None:
    assert Collective("x", "all_reduce", 800).sent(8) == 1400
    assert Collective("x", "all_gather", 100).sent(8) == 700
    assert Collective("x", "all_to_all", 800).sent(8) == 700
    assert all(Collective("x", kind, 800).sent(1) == 0 for kind in ("all_reduce", "all_gather", "all_to_all"))


def test_a_fused_step_of_the_papers_run() -> None:
    """ResNet-50 has 25.6 million parameters, its 2.0 million of the last layer left out; the stems have 3, 1 and 2
    channels, and a head is 2048 x 128 + 128 (docs of torchvision; He et al. 2016)."""
    run = PretrainSettings.model_validate({"data": {"beton": "/x.beton"}})
    sizes = sizes_of(run)
    trunk = 25_557_032 - (2048 * 1000 + 1000)
    stems = 64 * 49 * (1 + 2 - 6)
    assert sizes.encoder == 4 * (3 * (trunk + 2048 * 128 + 128) + stems)
    # Three layers, and batch norm of two hidden ones.
    assert sizes.generator == 4 * 3 * (128 * 2048 + 2048 + 2048**2 + 2048 + 2048 * 128 + 128 + 2 * 2 * 2048)
    found = {each.name: each for each in collectives(run, sizes, 16, meta=True)}
    assert found["gradients of the encoders"].payload == 2 * sizes.encoder
    assert found["rows of the bank for each anchor"].payload == 2 * 16 * 3 * 128 * 4
    assert found["rows of the bank for all of them"].payload == 4096 * 3 * 128 * 4
    assert found["rows written to the bank"].payload == 16 * 3 * 128 * 4


def test_the_mean_step_is_between_its_kinds() -> None:
    run = PretrainSettings.model_validate({"data": {"beton": "/x.beton"}, "method": {"meta": {"every": 10}}})
    sizes = Sizes(encoder=1000, generator=10, replicated=0, row=1536, feature=1536)
    plain, meta = (sent_in_a_step(collectives(run, sizes, 16, meta=meta), 4) for meta in (False, True))
    assert sent_in_a_step(mean_collectives(run, sizes, 16), 4) == pytest.approx(0.9 * plain + 0.1 * meta)
    every = run.model_copy(update={"method": run.method.model_copy(update={"generators": False})})
    assert sent_in_a_step(mean_collectives(every, sizes, 16), 4) == plain
