from metaug_ray.config import CheckSettings, ComputeSettings, PreflightSettings
from metaug_ray.preflight.cluster_nodes import check_cluster, described, on_gpus, working
from tests.preflight.nodes import FIRST, HOME, the_fault, told, two_nodes


def test_the_drivers_node_comes_first_and_names_are_unique() -> None:
    assert [(node.name, node.home) for node in two_nodes()] == [(HOME, True), (FIRST, False)]
    twins = [told(1), told(1) | {"NodeID": "9" * 12}]
    assert {node.name for node in described(twins, "9" * 12)} == {f"{FIRST} 999999", f"{FIRST} 111111"}


def test_a_node_that_did_not_join() -> None:
    found = check_cluster(two_nodes(), PreflightSettings(check=CheckSettings(nodes=3)))
    assert the_fault(found).measured == "2 nodes; expected 3"
    assert {finding.verdict for finding in check_cluster(two_nodes(), PreflightSettings())} == {"ok"}


def test_more_workers_than_there_is_room_for() -> None:
    found = the_fault(check_cluster(two_nodes(), PreflightSettings(compute=ComputeSettings(workers=9))))
    assert "room for 8 of them" in found.measured
    assert found.advice == "ask for fewer workers, or add nodes"
    found = the_fault(check_cluster(two_nodes(), PreflightSettings(compute=ComputeSettings(device="gpu"))))
    assert (found.measured.startswith("compute.device: gpu, but the cluster has none"), found.advice) == (
        True,
        "set it to cpu",
    )


def test_workers_do_not_run_on_a_head_without_gpus() -> None:
    nodes = described([told(1, GPU=2), told(2)], "2" * 12)
    assert on_gpus(nodes, "auto")
    assert [node.name for node in working(nodes, "auto")] == [FIRST]
    assert [node.name for node in working(nodes, "cpu")] == [HOME, FIRST]
