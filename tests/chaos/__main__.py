"""Kills at random in short runs, each compared at its end with the run that lost nothing: docs/clusters.md.

python -m tests.chaos --seed 1 --minutes 30
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from metaug_ray.config.prepare import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from metaug_ray.evaluation.results import markdown
from metaug_ray.runtime.words import duration
from tests.chaos.cluster import Cluster
from tests.chaos.kills import LOCAL, ON_A_CLUSTER
from tests.chaos.rounds import Round, make_twin, play


def main(arguments: list[str] | None = None) -> int:
    """Play rounds until the time is over; returns 1 if a run was lost or ended otherwise than its twin."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each further one has the next")
    parser.add_argument("--minutes", type=float, default=10, help="after which no further round begins")
    parser.add_argument("--rounds", type=int, default=1000, help="at most")
    parser.add_argument("--where", choices=("both", "local", "cluster"), default="both", help="on a driver's own Ray")
    parser.add_argument("--epochs", type=int, default=16, help="of six steps")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"in {folder}; first the run that loses nothing", flush=True)
    beton = folder / "shapes.beton"
    source, encoding = SourceSettings(kind="shapes", count=96, size=32), EncodingSettings(preset="small")
    prepare(PrepareSettings(source=source, encoding=encoding, output=beton, workers=1))
    twin = make_twin(beton, folder / "twin", options.epochs)
    end = time.monotonic() + 60 * options.minutes
    played: list[Round] = []
    seed = options.seed
    while time.monotonic() < end and len(played) < options.rounds:
        draws = random.Random(f"round {seed}")
        local = options.where == "local" or (options.where == "both" and draws.random() < 0.6)
        print(f"round {seed}, {'local' if local else 'cluster'}", flush=True)
        place = folder / str(seed)
        place.mkdir()
        cluster = None if local else Cluster(place, nodes=2)
        try:
            kinds, count = (LOCAL if local else ON_A_CLUSTER), draws.randint(3, 5)
            played.append(play(seed, kinds, count, twin, beton, place, cluster, lambda text: print(text, flush=True)))
        finally:
            if cluster is not None:
                cluster.stop()
        print(f"  {played[-1].fault or 'as its twin'} after {duration(played[-1].seconds)}", flush=True)
        seed += 1
    rows = [
        [str(r.seed), ", ".join(r.kills), str(r.given_again), duration(r.seconds), r.fault or "same"] for r in played
    ]
    print(markdown(["seed", "killed", "command given again", "time", "end"], rows))
    kills, faults = sum(len(r.kills) for r in played), sum(bool(r.fault) for r in played)
    print(f"{kills} kills in {len(played)} runs: {faults} lost or different")
    return int(faults > 0 or not kills)


if __name__ == "__main__":
    sys.exit(main())
