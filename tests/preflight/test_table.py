from io import StringIO

from metaug_ray.preflight.findings import CLUSTER, Finding, fault
from metaug_ray.preflight.table import merged, show
from tests.preflight.nodes import FIRST, HOME


def test_what_is_ok_and_the_same_everywhere_is_one_row() -> None:
    findings = [
        Finding(CLUSTER, "nodes", "2 nodes"),
        Finding(HOME, "ports", "all"),
        Finding(FIRST, "ports", "all"),
        Finding(HOME, "disk", "fast"),
        Finding(FIRST, "disk", "slow"),
        fault(HOME, "beton", "none", "copy it"),
        fault(FIRST, "beton", "none", "copy it"),
    ]
    rows = [(row.node, row.check) for row in merged(findings, 2)]
    assert rows == [
        (CLUSTER, "nodes"),
        ("all nodes", "ports"),
        (HOME, "disk"),
        (FIRST, "disk"),
        (HOME, "beton"),
        (FIRST, "beton"),
    ]


def test_long_paths_and_brackets_are_told_whole() -> None:
    out = StringIO()
    path = f"/data[1]/{'x' * 200}"
    show([fault(HOME, "beton", path, "copy it there")], 2, out)
    cells = [line.split("│") for line in out.getvalue().splitlines() if "│" in line]
    assert "".join(cell[3].strip() for cell in cells) == path
    assert "".join(cell[5].strip() for cell in cells) == "copy it there"
