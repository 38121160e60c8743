from pathlib import Path

import pytest

from metaug_ray.config import CompareSettings, TrackingSettings
from metaug_ray.evaluation.compare import compare, group
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.intervals import confidence_interval
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.evaluations import Evaluation, find_evaluations, log_evaluation
from tests.tracking.test_encoders import describe


def evaluation(
    variant: str, seed: int, knn: float, config: str = "c", epochs: float = 4.0, judged: str = "j"
) -> Evaluation:
    return Evaluation(f"{variant}{seed}", variant, "run", seed, epochs, "a -> b", judged, config, {"knn/top1": knn})


def test_seeds_of_one_setting_make_one_row() -> None:
    found = [
        evaluation("MetAug", 0, 0.5),  # the newest of this run
        evaluation("CMC", 0, 0.40),
        evaluation("CMC", 1, 0.44),
        evaluation("CMC", 2, 0.45),
        evaluation("MetAug", 0, 0.1),
        evaluation("MetAug", 1, 0.6, config="other"),
        evaluation("MetAug", 1, 0.7, epochs=8.0),
        evaluation("CMC", 3, 0.9, judged="otherwise"),
    ]
    rows = group(found, ["knn/top1"])
    assert [(row.variant, row.config, row.epochs, list(row.seeds)) for row in rows] == [
        ("CMC", "c", 4.0, [0, 1, 2]),
        ("MetAug", "c", 4.0, [0]),
        ("MetAug", "other", 4.0, [1]),
        ("MetAug", "c", 8.0, [1]),
        ("CMC", "c", 4.0, [3]),
    ]
    assert rows[0].metrics["knn/top1"] == confidence_interval([0.40, 0.44, 0.45])
    assert rows[1].metrics["knn/top1"].mean == 0.5


def seeded(seed: int, method: str) -> EncoderDescription:
    settings = {"name": f"{method}{seed}", "seed": seed, "method": method, "model": {}}
    return describe().model_copy(update={"variant": method, "settings": settings})


def test_from_mlflow_to_a_table(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for method, values in {"CMC": (0.40, 0.44, 0.45), "MetAug": (0.5, 0.52, 0.51)}.items():
        for seed, value in enumerate(values):
            metrics = {"knn/top1": value, "linear/top1": value + 0.1}
            log_evaluation(
                seeded(seed, method),
                f"run:{method}{seed}",
                "a -> b",
                "j",
                {},
                metrics,
                [],
                experiment="metaug",
                uri=uri,
            )
    settings = CompareSettings(output=tmp_path / "out", tracking=TrackingSettings(uri=uri))
    table = compare(settings)
    assert "| a -> b | CMC | 0.5 | 3 | 43.0 ± 6.6 % | 53.0 ± 6.6 % |  |" in table
    assert "| a -> b | MetAug | 0.5 | 3 | **51.0 ± 2.5 %** | **61.0 ± 2.5 %** |  |" in table
    assert (tmp_path / "out" / "comparison.md").read_text() == table
    assert (tmp_path / "out" / "comparison_0.png").read_bytes().startswith(b"\x89PNG")
    assert len(find_evaluations("metaug", uri)) == 6
    assert find_evaluations("metaug", uri, run_id="unknown") == []

    with pytest.raises(EvaluationError, match=r"one of knn/top5; measured are: knn/top1, linear/top1"):
        compare(settings.model_copy(update={"metrics": ("knn/top5",)}))


def test_a_half_written_evaluation_is_not_found(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    missing = [tmp_path / "missing.png"]
    with pytest.raises(Exception, match="missing"):
        log_evaluation(
            seeded(0, "CMC"), "run:x", "a -> b", "j", {}, {"knn/top1": 0.5}, missing, experiment="metaug", uri=uri
        )
    assert find_evaluations("metaug", uri) == []
