import socket

from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.ports import WORKERS, Port, check_ports, needed, unreachable
from metaug_ray.preflight.probes import Probe
from tests.preflight.nodes import FIRST, HOME, the_fault, two_nodes


def test_every_port_that_ray_and_torch_need() -> None:
    ports = needed(two_nodes(), "10.0.0.2:6379", {FIRST: 40001})
    assert {(port.address, port.number, port.what) for port in ports} == {
        ("10.0.0.2", 6379, "GCS"),
        ("10.0.0.2", 7002, "node manager"),
        ("10.0.0.2", 8002, "object manager"),
        ("10.0.0.1", 7001, "node manager"),
        ("10.0.0.1", 8001, "object manager"),
        ("10.0.0.1", 40001, WORKERS),
    }


def test_a_port_that_is_closed_and_one_that_a_probe_keeps_open() -> None:
    probe = Probe()
    opened = Port(HOME, "127.0.0.1", probe.listen(), WORKERS)
    assert probe.listen() == opened.number
    with socket.socket() as bound:
        # Bound, and not listening: nobody else can open it meanwhile.
        bound.bind(("127.0.0.1", 0))
        closed = Port(HOME, "127.0.0.1", bound.getsockname()[1], "GCS")
        refused = unreachable([opened, closed])
    assert refused == [(closed, "Connection refused")]
    found = the_fault(check_ports({HOME: [], FIRST: refused}, {}, 2))
    assert found.measured == f"cannot reach 127.0.0.1:{closed.number} (GCS of {HOME}: Connection refused)"
    assert "--node-ip-address" in found.advice


def test_a_firewall_that_drops_what_comes_in() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = Port(HOME, "127.0.0.1", listening.getsockname()[1], WORKERS)
    # Nobody accepts these: what comes after them gets no answer.
    waiting = [socket.socket() for _ in range(4)]
    for connection in waiting:
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port.number))
    refused = unreachable([port], patience=0.2)
    for connection in (*waiting, listening):
        connection.close()
    assert refused == [(port, "no answer within 0.2 s")]
    assert "torch.distributed" in the_fault(check_ports({FIRST: refused}, {}, 1)).advice


def test_many_closed_ports_are_counted() -> None:
    closed = [(Port(HOME, "10.0.0.2", number, "GCS"), "Connection refused") for number in range(9)]
    assert the_fault(check_ports({FIRST: closed}, {}, 9)).measured.endswith(" and 5 more")


def test_a_node_that_does_not_try() -> None:
    assert the_fault(check_ports({}, {FIRST: Failed("no answer within 1 s", silent=True)}, 1)).node == FIRST
