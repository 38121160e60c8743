import psutil

from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.memory import Memory, check_memory, memory
from tests.preflight.nodes import FIRST, HOME, the_fault, two_nodes

GIB = 1 << 30
GOOD = Memory(total=32 * GIB, used=4 * GIB, shared=16 * GIB, shared_free=16 * GIB)


def test_this_machines_is_enough() -> None:
    own = memory()
    assert own.total == psutil.virtual_memory().total
    assert 0 < own.shared_free <= own.shared


def test_a_container_with_little_shared_memory() -> None:
    small = Memory(32 * GIB, 4 * GIB, 64 << 20, 64 << 20)
    found = the_fault(check_memory({HOME: GOOD, FIRST: small}, {}, two_nodes()))
    assert (found.node, "/dev/shm 64.0 MiB of 64.0 MiB free" in found.measured) == (FIRST, True)
    assert "--shm-size" in found.advice


def test_a_machine_whose_memory_is_full() -> None:
    full = Memory(32 * GIB, 31 * GIB, 16 * GIB, 16 * GIB)
    assert the_fault(check_memory({HOME: full, FIRST: GOOD}, {}, two_nodes())).node == HOME


def test_an_object_store_that_does_not_fit_into_shared_memory() -> None:
    nodes = two_nodes(object_store_memory=20.0 * GIB)
    (found,) = check_memory({HOME: GOOD}, {}, nodes)
    assert (found.verdict, "--object-store-memory" in found.advice) == ("warning", True)


def test_a_machine_without_shared_memory() -> None:
    assert (
        the_fault(check_memory({HOME: GOOD}, {FIRST: Failed("No such file or directory")}, two_nodes())).node == FIRST
    )
