from typing import Any

import pytest

from metaug_ray.runtime.mailbox import describe_failures


@pytest.mark.parametrize(
    ("failures", "text"),
    [
        ({1: ValueError("no such thing\nat all")}, "worker 1 failed (ValueError: no such thing)"),
        (
            {2: RuntimeError("Traceback (most recent call last):\n  File x\nOSError: disk full"), 0: MemoryError()},
            "worker 0 failed (MemoryError()), worker 2 failed (RuntimeError: OSError: disk full)",
        ),
    ],
)
def test_failures_are_told_in_a_line(failures: dict[int, Any], text: str) -> None:
    assert describe_failures(failures) == text
