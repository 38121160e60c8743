import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from metaug_ray.config import CompareSettings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.evaluation.compare import compare, group
from metaug_ray.evaluation.comparison_report import Row, write
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.intervals import confidence_interval
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.evaluations import Evaluation, classifier_of, find_evaluations, log_evaluation
from tests.tracking.test_encoders import describe

METRICS = ("knn/top1", "linear/top1")


def evaluation(
    variant: str,
    seed: int,
    knn: float | None,
    linear: float | None = None,
    config: str = "c",
    epochs: float = 4.0,
    judged: Mapping[str, str] | None = None,
    **training: str,
) -> Evaluation:
    measured = {"knn/top1": knn, "linear/top1": linear}
    hashes = {"images": "i", "knn": "k", "linear": "l"} | (judged or {})
    return Evaluation(
        f"{variant}{seed}",
        variant,
        f"{variant}-{seed}",
        seed,
        epochs,
        "conv, l+ab",
        "a -> b",
        hashes,
        hashes,
        config,
        {name: value for name, value in measured.items() if value is not None},
        {f"{name}.setting": value for name, value in hashes.items()},
        training,
    )


def told(rows: Sequence[Row]) -> list[tuple[str, str, float, list[int]]]:
    return [(row.variant, row.config, row.epochs, list(row.runs)) for row in rows]


def test_seeds_of_one_setting_make_one_row() -> None:
    found = [
        evaluation("MetAug", 0, 0.5),  # the newest of this run
        evaluation("CMC", 1, 0.44),
        evaluation("CMC", 0, 0.40),
        evaluation("CMC", 2, 0.45),
        evaluation("MetAug", 0, 0.1),
        evaluation("MetAug", 1, 0.6, config="other"),
        evaluation("MetAug", 1, 0.7, epochs=8.0),
    ]
    rows = group(found, ["knn/top1"])
    assert told(rows) == [
        ("CMC", "c", 4.0, [0, 1, 2]),
        ("MetAug", "c", 4.0, [0]),
        ("MetAug", "other", 4.0, [1]),
        ("MetAug", "c", 8.0, [1]),
    ]
    assert rows[0].interval("knn/top1") == confidence_interval([0.40, 0.44, 0.45])
    assert rows[0].runs == {0: "CMC-0", 1: "CMC-1", 2: "CMC-2"}
    assert rows[1].values["knn/top1"] == {0: 0.5}


def test_only_settings_that_a_metric_depends_on_keep_rows_apart() -> None:
    found = [
        # Nobody asks for this classifier.
        evaluation("CMC", 0, 0.40, judged={"augmented_linear": "x"}),
        evaluation("CMC", 1, 0.42),
        # Measured by another evaluation than its kNN.
        evaluation("CMC", 2, 0.44),
        evaluation("CMC", 2, None, 0.54, judged={"knn": "another"}),
        # Another linear probe; and other images.
        evaluation("CMC", 0, 0.40, 0.60, judged={"linear": "longer"}),
        evaluation("CMC", 0, 0.10, judged={"images": "smaller"}),
    ]
    rows = group(found, METRICS)
    assert [dict(row.values) for row in rows] == [
        {"knn/top1": {0: 0.40, 1: 0.42, 2: 0.44}, "linear/top1": {2: 0.54}},
        {"knn/top1": {0: 0.40}, "linear/top1": {0: 0.60}},
        {"knn/top1": {0: 0.10}},
    ]


def test_namesakes_are_told_apart(tmp_path: Path) -> None:
    found = [
        evaluation("MetAug", 0, 0.5, beta="16", delta="1"),
        evaluation("MetAug", 0, 0.5, config="d", beta="8", delta="1"),
        evaluation("CMC", 0, 0.4, config="e"),
        evaluation("CMC", 0, 0.7, config="e", judged={"knn": "m"}),
    ]
    table = write(group(found, ["knn/top1"]), ["knn/top1"], tmp_path)
    assert table.splitlines()[2:6] == [
        "| a -> b [1] | conv, l+ab | CMC | 4 | 1 | 40.0 % |",
        "| a -> b [1] | conv, l+ab | MetAug [1] | 4 | 1 | **50.0 %** |",
        "| a -> b [1] | conv, l+ab | MetAug [2] | 4 | 1 | **50.0 %** |",
        # Alone, it is not the best of anything.
        "| a -> b [2] | conv, l+ab | CMC | 4 | 1 | 70.0 % |",
    ]
    assert table.splitlines()[-4:] == [
        "- a -> b [1]: knn.setting k",
        "- a -> b [2]: knn.setting m",
        "- MetAug [1]: beta 16",
        "- MetAug [2]: beta 8",
    ]
    with (tmp_path / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["run"], line["config"], line["judged"], float(line["value"])) for line in lines] == [
        ("CMC-0", "e", "k", 0.4),
        ("MetAug-0", "c", "k", 0.5),
        ("MetAug-0", "d", "k", 0.5),
        ("CMC-0", "e", "m", 0.7),
    ]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["comparison_0.png", "comparison_1.png"]


def test_metrics_are_told_by_their_classifier() -> None:
    names = ("knn/top1", "linear_10pct/top1", "linear_0.5pct/conv3/top5", "augmented_linear/top1", "online_knn/top1")
    assert [classifier_of(name) for name in names] == ["knn", "linear", "linear", "augmented_linear", "online_knn"]


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
                {"images": {"size": 32}, "knn": {"neighbours": 20}, "linear": {"epochs": 3}},
                {},
                metrics,
                [],
                experiment="metaug",
                uri=uri,
            )
    settings = CompareSettings(output=tmp_path / "out", tracking=TrackingSettings(uri=uri))
    table = compare(settings)
    networks = "resnet50, rgb+l+ab"
    assert f"| a -> b | {networks} | CMC | 0.5 | 3 | 43.0 ± 6.6 % | 53.0 ± 6.6 % |\n" in table
    assert "- not measured: linear_10pct/top1\n" in table
    assert f"| a -> b | {networks} | MetAug | 0.5 | 3 | **51.0 ± 2.5 %** | **61.0 ± 2.5 %** |\n" in table
    assert (tmp_path / "out" / "comparison.md").read_text() == table
    assert (tmp_path / "out" / "comparison_0.png").read_bytes().startswith(b"\x89PNG")
    evaluations = find_evaluations("metaug", uri)
    assert len(evaluations) == 6
    # Read through this version's settings: what was not written has its default.
    expected = {"images.size": "32", "knn.neighbours": "20", "knn.temperature": "0.07", "linear.epochs": "3"}
    assert expected.items() <= evaluations[0].protocol.items()
    assert evaluations[0].training["method"] == "MetAug"
    assert find_evaluations("metaug", uri, run_id="unknown") == []

    with pytest.raises(EvaluationError, match=r"one of knn/top5; measured are: knn/top1, linear/top1"):
        compare(settings.model_copy(update={"metrics": ("knn/top5",)}))


def test_a_half_written_evaluation_is_not_found(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    missing = [tmp_path / "missing.png"]
    with pytest.raises(Exception, match="missing"):
        log_evaluation(
            seeded(0, "CMC"),
            "run:x",
            "a -> b",
            {"images": {}},
            {},
            {"knn/top1": 0.5},
            missing,
            experiment="metaug",
            uri=uri,
        )
    assert find_evaluations("metaug", uri) == []
