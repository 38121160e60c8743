"""Whether a cheaper schedule of the meta step makes worse encoders. The runs are `tests/gpu/schedules.py`'s."""

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.gpu.child import ROOT
from tests.gpu.schedules import compare
from tests.gpu.setting import Row, Setting, skipped


def schedules(setting: Setting) -> Iterator[Row]:
    if setting.images is None:
        yield skipped("kNN by schedule", "no --images")
        return
    output = setting.folder / "schedules.json"
    command = [sys.executable, "-m", "tests.gpu.schedules", "--images", str(setting.images), "--output", str(output)]
    toy = ["--seeds", "2", "--epochs", "1", "--count", "512"]
    some = ["--seeds", "4", "--epochs", "8", "--kinds", "fused", "lookahead", "lookahead, a quarter, kept"]
    made = subprocess.run(
        [*command, "--device", setting.device.type, *(toy if setting.quick else some)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    setting.log(made.stdout + made.stderr)
    if made.returncode:
        raise RuntimeError(f"the runs failed: {made.stderr.strip().splitlines()[-1]}")
    for kind, found in compare(json.loads(output.read_text(encoding="utf-8"))).items():
        yield Row(kind, found.said, numbers={"knn": found.knn, "difference": found.difference, "loss": found.loss})
