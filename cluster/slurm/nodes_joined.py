"""Waits until all nodes of a Slurm job are in its Ray cluster: nodes_joined.py NODES SECONDS, of job.sh."""

import os
import sys
import time

from ray.util.state import list_nodes


def main(nodes: int, seconds: float) -> int:
    """Says how many have joined, whenever that changes; returns 1 where time is up."""
    dashboard = f"http://127.0.0.1:{int(os.environ['CLUSTER_PORT']) + 2}"
    end = time.monotonic() + seconds
    joined = -1
    while True:
        before, joined = joined, max(joined, _alive(dashboard))
        if joined > before:
            print(f"nodes_joined.py: {max(joined, 0)} of {nodes} nodes have joined", flush=True)
        if joined >= nodes:
            return 0
        if time.monotonic() > end:
            print(
                f"nodes_joined.py: {joined} of {nodes} nodes have joined after {seconds:g} s "
                "(CLUSTER_JOIN_SECONDS); look into the logs of the others",
                file=sys.stderr,
            )
            return 1
        time.sleep(1)


def _alive(dashboard: str) -> int:
    try:
        return sum(node.state == "ALIVE" for node in list_nodes(dashboard, timeout=10))
    # Until the head is up, whatever Ray's client and HTTP raise.
    except Exception:
        return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
