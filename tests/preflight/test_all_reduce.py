from metaug_ray.preflight.all_reduce import Measured, judge_all_reduce
from tests.preflight.nodes import the_fault


def test_the_slowest_worker_counts() -> None:
    told = [Measured(0.0005, 1200.0), Measured(0.0020, 40.0)]
    found = judge_all_reduce("all-reduce (gloo)", told, 64, 10, gpu=False)
    assert (found.verdict, found.measured) == ("ok", "2 workers, 64 MB: 40 MB/s of the bus; 2.00 ms for one number")
    slow = the_fault([judge_all_reduce("all-reduce (gloo)", told, 64, 50, gpu=False)])
    assert slow.measured.endswith("expected at least 50 MB/s")
    assert "GLOO_SOCKET_IFNAME" in slow.advice
    assert "NCCL_SOCKET_IFNAME" in judge_all_reduce("all-reduce (nccl)", told, 64, 50, gpu=True).advice


def test_one_gpu_has_nobody_to_talk_to() -> None:
    assert judge_all_reduce("all-reduce (nccl)", [Measured(0.0, 0.0)], 64, 50, gpu=True).verdict == "ok"
