"""How many CPUs this process may use."""

import os


def available_cpus() -> int:
    """CPUs that the scheduler lets this process run on; under a cpuset fewer than the machine has."""
    return len(os.sched_getaffinity(0))
