"""Closed forms by hand numbers, what must grow or fall, and where the plan says that the design ends."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from metaug_ray.capacity.errors import PlanError
from metaug_ray.capacity.lines import Line, Refused
from metaug_ray.capacity.links import Links
from metaug_ray.capacity.plan import Plan, make_plan
from metaug_ray.capacity.report import as_json, as_text
from metaug_ray.capacity.sizes import sizes_of
from metaug_ray.capacity.traffic import Collective
from metaug_ray.capacity.worker import Worker, estimated_memory, worker_of
from metaug_ray.config import CapacitySettings
from metaug_ray.training.state import build_state
from tests.training.small import small_settings

GIB = 2.0**30


def capacity(run: dict[str, Any] | None = None, **plan: Any) -> CapacitySettings:
    given = {"data": {"beton": "/there/is/none.beton"}} | (run or {})
    return CapacitySettings.model_validate({"run": given, "plan": plan})


def lines(plan: Plan) -> list[Line]:
    return [line for line in plan.lines if isinstance(line, Line)]


def limit(plan: Plan, what: str) -> tuple[bool, str]:
    (found,) = [(limit.holds, limit.text) for limit in plan.limits if limit.what == what]
    return found


def test_one_gpu_by_hand() -> None:
    """ImageNet's 10,009 steps of 128 images, 240 times, at the measured 353 ms."""
    (line,) = lines(make_plan(capacity(gpus=[1], price=2, efficiency=0.8)))
    assert (line.batch, line.images, line.network, line.host, line.sent, line.bound) == (128, 128, 0, 0, 0, "GPU")
    assert line.step == 0.353
    hours = 240 * 10_009 * 0.353 / 0.8 / 3600
    assert line.hours == pytest.approx(hours)
    assert line.cost == pytest.approx(2 * hours)
    assert line.bank == pytest.approx(1_281_167 * 3 * 128 * 4 / GIB)
    # Measured with a bank of 100,000 images, which is not in it twice.
    assert line.gpu_memory == pytest.approx(17.6 + (1_281_167 - 100_000) * 3 * 128 * 4 / GIB)
    assert line.cores == pytest.approx(128 / 0.353 / 432)


def test_links_by_hand() -> None:
    links = Links(per_node=4, local=100e9, node=25e9, latency=1e-5, overlap=0.5)
    reduce, gradients = (Collective(n, "all_reduce", 1e9, 2) for n in ("x", "gradients of the encoders"))
    assert links.seconds([reduce], 1) == 0
    # Inside a node: 2 x 3/4 GB at 100 GB/s, and two calls of twice two levels of a tree.
    assert links.seconds([reduce], 4) == pytest.approx(0.015 + 2 * 2 * 2e-5)
    # Between nodes all of a node's links carry one tensor.
    assert links.seconds([reduce], 16) == pytest.approx(2 * 15 / 16 / 25 + 2 * 2 * 4e-5)
    assert links.seconds([gradients], 16) == pytest.approx(links.seconds([reduce], 16) / 2)
    # Each of a node's four workers sends 12 of 16 parts of its rows out of it.
    rows = Collective("x", "all_to_all", 16e6, 1)
    assert links.seconds([rows], 16) == pytest.approx(4 * 12e6 / 25e9 + 15e-5)


def test_a_worker_between_and_beyond_its_measurements() -> None:
    worker = Worker({10: 1.0, 20: 1.5, 40: 3.5}, {10: 2.0, 20: 3.0})
    assert [worker.step(images) for images in (1, 10, 15, 30, 40, 50)] == [1.0, 1.0, 1.25, 2.5, 3.5, 4.5]
    assert Worker({10: 1.0}, {10: 2.0}).step(30) == 3.0
    run = capacity({"training": {"accumulation": 2, "batch_size": 40}}).run
    # Twenty of forty images wait as float32: six channels of 224 x 224.
    assert worker.step_memory(run, 40) == pytest.approx(3.0 + 20 * 6 * 224**2 * 4 / GIB)


def test_every_tenth_step_fused_is_what_was_measured() -> None:
    """130 ms by docs/gpu.md, from the steps of both kinds."""
    worker = worker_of(capacity({"method": {"meta": {"every": 10}}}))
    assert worker.step(128) == pytest.approx(0.130, rel=0.04)
    assert worker_of(capacity({"method": {"generators": False}})).step(128) == 0.101
    assert worker_of(capacity({"method": {"meta": {"schedule": "separate"}}})).step(128) == pytest.approx(0.455)


@pytest.mark.parametrize("growing", [None, 64])
def test_more_gpus_never_take_longer_in_computing_and_send_more(growing: int | None) -> None:
    found = lines(make_plan(capacity(images_per_worker=growing, latency=0, host={"exchange_nanoseconds": 1e-9})))
    for fewer, more in pairwise(found):
        assert more.step - more.network <= fewer.step - fewer.network + 1e-9
        assert more.sent > fewer.sent
        assert more.bank < fewer.bank
        if growing:
            assert more.images_per_second > fewer.images_per_second
            assert more.hours < fewer.hours


def test_more_images_take_more_of_everything() -> None:
    plans = [make_plan(capacity(images=count, images_per_worker=64)) for count in (10**6, 10**7, 10**8, 4 * 10**8)]
    for less, more in pairwise(plans):
        assert more.disk.stored > less.disk.stored
        for few, many in zip(lines(less), lines(more), strict=True):
            assert many.bank > few.bank
            assert many.node_memory > few.node_memory
            assert many.hours > few.hours


def test_the_slowest_part_bounds_a_step() -> None:
    given: dict[str, Any] = {"gpus": [8], "images_per_worker": 100, "step_seconds": {100: 0.1}}
    (line,) = lines(make_plan(capacity(**given, images_per_core=50, cores_per_gpu=4)))
    assert (line.bound, line.step) == ("cores", 0.5)
    # 800 images of 1 MB from a storage that gives 1 GB/s, as they do not fit a node's memory.
    slow = given | {"bytes_per_image": 1e6, "images": 10**6, "node_memory": 100, "storage_rate": 1}
    (line,) = lines(make_plan(capacity(**slow)))
    assert (line.bound, round(line.step, 9)) == ("disk", 0.8)
    (line,) = lines(make_plan(capacity({"compute": {"staging": "/disk"}}, **slow, disk_rate=4)))
    assert (line.bound, round(line.step, 9)) == ("disk", 0.2)
    (line,) = lines(make_plan(capacity(**slow | {"node_memory": 1000})))
    assert line.bound == "GPU"


@pytest.mark.parametrize("schedule", ["fused", "lookahead"])
def test_a_checkpoint_has_the_size_of_the_state(schedule: str) -> None:
    """Counted without memory, against the tensors of a run that is there."""
    changes = {"model": {"encoder": "conv", "small_images": True}, "method": {"meta": {"schedule": schedule}}}
    run = small_settings(__file__, **changes)  # type: ignore[arg-type]
    state = build_state(run, 100, torch.device("cpu")).state_dict()
    tensors: list[torch.Tensor] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for part in value.values():
                walk(part)
        elif isinstance(value, torch.Tensor):
            tensors.append(value)

    walk(state)
    # Adam's counts of steps are scalars, and left out.
    counted = sum(tensor.nbytes for tensor in tensors if tensor.ndim or tensor.dtype == torch.int64)
    assert sizes_of(run).checkpoint(100) == counted


def test_a_batch_that_does_not_divide_is_refused_by_its_reason() -> None:
    plan = make_plan(capacity())
    refused = [line for line in plan.lines if isinstance(line, Refused)]
    assert [line.gpus for line in refused] == [128, 256, 512, 1024]
    assert "128 images among 128 workers leave each 1" in refused[0].reason
    holds, text = limit(plan, "batch")
    assert not holds
    assert "that is so on 16, 32, 64 GPUs" in text
    assert refused[0].reason in text
    # Nothing but that can be said of a run that would begin nowhere.
    assert [each.what for each in make_plan(capacity(gpus=[100])).limits] == ["batch"]


def test_the_design_ends_where_its_numbers_say() -> None:
    """400 million images: each number again by hand."""
    wide = make_plan(capacity(images=400_000_000, images_per_worker=128))
    by_what = {each.what: each for each in wide.limits}
    assert by_what["main memory"].holds
    # The eight workers of one node copy all rows of 1,536 bytes, and each the rest.
    copied = 400e6 * 1536 + 8 * sizes_of(capacity().run).replicated
    assert f"up to {8 * 1.5 + copied / GIB:,.0f} of its 2,048 GiB" in by_what["main memory"].text
    # 384 numbers a row.
    most = 600 * 1024 / (384 * 13e-9)
    assert f"there ten minutes at {most / 1e6:,.0f} million images" in by_what["start"].text
    assert "past it on 1, 2, 4 GPUs" in by_what["GPU memory"].text
    # 2^31 numbers are 5.6 million images; on 64 GPUs each has 6.3 million.
    assert "past it on 1, 2, 4, 8, 16, 32, 64 GPUs" in by_what["bank's rows of a worker"].text
    # In 12 hours each of 128 nodes copies 1.7 TB of the 5 GB/s that they share.
    assert not by_what["staging"].holds
    assert f"ends at {12 * 3600 * 5e9 / 128 / 56_320 / 1e6:,.0f} million images" in by_what["staging"].text
    # Of 1,024 shards each of them copies eight, and one that it shares with another.
    dealt = make_plan(capacity(images=400_000_000, images_per_worker=128, shards=1024))
    (staging,) = (each for each in dealt.limits if each.what == "staging")
    assert staging.holds
    assert f"a node stages {400e6 * 56_320 * 9 / 1024 / 1e9:,.0f} GB, and workers" in staging.text
    assert by_what["checkpoint"].holds
    small = make_plan(capacity(gpus=[8], images_per_worker=64))
    assert all(each.holds for each in small.limits), [each for each in small.limits if not each.holds]
    rows = make_plan(capacity({"bank": {"sampling": "per_anchor"}}, gpus=[8], images_per_worker=64))
    assert "2,097,152 numbers a step" in limit(rows, "bank.sampling per_anchor")[1]


def test_other_networks_need_a_measurement() -> None:
    small = {"model": {"encoder": "resnet18"}}
    with pytest.raises(PlanError, match=r"not given.* 3 x resnet18 \(width 1\) at 224 px in bfloat16"):
        make_plan(capacity(small))
    plan = make_plan(capacity(small, step_seconds={128: 0.1}, gpus=[1]))
    assert limit(plan, "GPU memory")[0]
    assert "--plan.peak-memory" in as_text(plan)
    assert "estimated from the networks' tensors" in as_text(plan)


def test_memory_that_is_estimated_is_near_what_was_measured() -> None:
    run = capacity().run
    estimated = Worker({128: 0.1}, estimated_memory(run))
    for images in (128, 512):
        measured = worker_of(capacity()).step_memory(run, images)
        assert estimated.step_memory(run, images) == pytest.approx(measured, rel=0.05)


def test_every_assumption_names_its_option_and_source() -> None:
    settings = capacity(price=1.5, host={"row_nanoseconds": 30})
    found = {each.option: each for each in make_plan(settings).assumptions}
    options = set(type(settings.plan).model_fields) - {"gpus", "as_json", "host"}
    options |= {f"host.{name}" for name in type(settings.plan.host).model_fields}
    assert set(found) == {f"--plan.{name.replace('_', '-')}" for name in options}
    assert all(each.source for each in found.values())
    given = {option for option, each in found.items() if each.source == "given"}
    assert given == {"--plan.price", "--plan.host.row-nanoseconds"}
    assert found["--plan.price"].value == "1.5 an hour"


def test_the_report_has_a_line_for_each_number_and_json_the_same() -> None:
    plan = make_plan(capacity(gpus=[1, 8, 1024]))
    text = as_text(plan)
    assert max(map(len, text.split("Assumptions")[0].splitlines())) <= 120
    table = text.split("\n\n")[1].splitlines()[2:]
    assert [row.split()[0] for row in table] == ["1", "8", "1,024"]
    assert table[2].split() == ["1,024", "refused"]
    read = json.loads(as_json(plan))
    assert [line["gpus"] for line in read["lines"]] == [1, 8, 1024]
    assert math.isclose(read["lines"][0]["step"], 0.353)
    assert read["disk"]["checkpoint"] == plan.disk.checkpoint


def test_a_line_that_does_not_fit_is_marked() -> None:
    plan = make_plan(capacity(images=10**8, gpus=[1, 64], images_per_worker=128))
    assert [line.fits for line in lines(plan)] == [False, True]
    table = as_text(plan).split("\n\n")[1].splitlines()
    assert [row.split()[0] for row in table[2:4]] == ["1*", "64"]
    assert table[4] == "* does not fit into the memory of a GPU or of a node"


@pytest.mark.parametrize("targets", ["batch", "neighbours"])
def test_what_does_not_grow_with_the_images_ends_nowhere(targets: str) -> None:
    """Without a bank: no rows are exchanged, and a checkpoint is as large for any data set."""
    run: dict[str, Any] = {"model": {"views": ("rgb", "rgb.2")}, "method": {"targets": targets}}
    few, many = (make_plan(capacity(run, step_seconds={64: 0.1}, images=n, gpus=[8])) for n in (10**6, 10**9))
    assert few.disk.checkpoint == many.disk.checkpoint
    assert lines(few)[0].bank == lines(many)[0].bank == (98_304 * 128 * 4 / GIB if targets == "neighbours" else 0)
    assert lines(few)[0].host == 0
    known = make_plan(capacity(run, step_seconds={64: 0.1}, peak_memory={64: 30.0}, images=10**6, gpus=[8]))
    assert "without the bank" not in as_text(known)
    assert f"a step takes {lines(known)[0].gpu_memory:.1f} of" in as_text(known)
    whats = {limit.what for limit in many.limits}
    assert not whats & {"bank's rows", "bank's rows of a worker"}
    assert "start" not in whats  # but for the bank nothing is drawn by image
    assert {"GPU memory", "checkpoint"} <= whats
