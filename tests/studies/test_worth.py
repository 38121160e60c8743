"""The study of what MetAug is worth: its images against the main job's loader, its plan, and its committed results."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from jobs.studies.worth.__main__ import main
from jobs.studies.worth.images import HALF, Labelled, MemoryLoader, Parts, pack, resized_crops, unpack
from jobs.studies.worth.processes import Ledger
from jobs.studies.worth.report import report
from jobs.studies.worth.run import Outcome, run
from jobs.studies.worth.stages import FOLDER, Task, stages, tasks
from metaug_ray.choices import OrderKind
from metaug_ray.config.augmentation import AugmentationSettings
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.tuning.space import with_values

CPU = torch.device("cpu")
CROPS = AugmentationSettings(crop_scale=(0.2, 1.0))


@pytest.fixture(scope="module")
def parts(shapes_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """96 shapes, which learn, decide and judge at once."""
    file = tmp_path_factory.mktemp("worth") / "images.parquet"
    pack({"learn": shapes_beton, "decide": shapes_beton, "judge": shapes_beton, "seen": shapes_beton}, 32, file)
    return Parts.read(file, CPU)


def test_images_come_back_as_they_were(shapes_beton: Path, tmp_path: Path) -> None:
    pack({"learn": shapes_beton}, 32, tmp_path / "images.parquet")
    unpacked = unpack(tmp_path / "images.parquet")["learn"]
    # The whole of each image, in the order of another loader's epoch.
    whole = AugmentationSettings(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0)
    batch = next(PretrainingLoader(shapes_beton, 96, 32, whole, seed=0, cpus=1, device=CPU).epoch(0))
    assert torch.equal(unpacked.images[batch.indices], batch.images)
    assert torch.equal(unpacked.labels[batch.indices], batch.labels)


@pytest.mark.parametrize("order", get_args(OrderKind))
def test_batches_are_those_of_the_main_jobs_loader(shapes_beton: Path, parts: Parts, order: OrderKind) -> None:
    theirs = PretrainingLoader(shapes_beton, 16, 32, CROPS, seed=3, cpus=1, device=CPU, order=order)
    ours = MemoryLoader(parts.learn.images, 16, CROPS, seed=3, order=order)
    assert (ours.samples, ours.steps_per_epoch) == (theirs.samples, theirs.steps_per_epoch)
    seen = 0
    for expected, batch in zip(theirs.epoch(2, 1), ours.epoch(2, 1), strict=True):
        assert torch.equal(batch.indices, expected.indices)
        apart = (batch.crops[0].int() - expected.images.int()).abs()
        assert apart.max() <= 1  # OpenCV rounds weights to eleven bits
        assert (apart > 0).float().mean() < 0.2
        seen += len(batch.indices)
    assert seen == 80


def test_a_crop_of_the_whole_is_the_image() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes, flips = torch.tensor([[0, 0, 8, 8]]).expand(3, 4), torch.tensor([False, True, False])
    crops = resized_crops(images, boxes, flips)
    assert torch.equal(crops[[0, 2]], images[[0, 2]])
    assert torch.equal(crops[1], images[1].flip(-1))


def test_other_augmentations_are_refused(parts: Parts) -> None:
    with pytest.raises(ValueError, match="only crops and mirroring are made in memory"):
        MemoryLoader(parts.learn.images, 16, AugmentationSettings(grayscale=0.2), seed=0)


def test_half_of_the_images(parts: Parts) -> None:
    assert len(parts.of(f"/data/{HALF}").learn.labels) == 48
    assert parts.of("/data/worth_learn.beton") is parts


def test_a_run_trains_and_is_judged_the_same_each_time(parts: Parts) -> None:
    sweep = stages({"training.batch_size": 32, "bank.negatives": 16, "training.epochs": 1})["contrasts"]({})
    assert sweep is not None
    changed = {
        "method.generators": True,
        "health.knn.every": 1,
        "model.feature_size": 16,
        "training.precision": "float32",
    }
    settings = with_values(sweep.run, changed | {"method.generator_hidden_size": 16})
    # Classes by the brightness of an image, so that probes have something to learn.
    labels = (parts.learn.images.float().mean((1, 2, 3)) > parts.learn.images.float().mean()).long()
    labelled = Labelled(parts.learn.images, labels)
    small = replace(parts, learn=labelled, decide=labelled, judge=labelled, seen=labelled)
    first, second = (run(settings, small, CPU, judged=True) for _ in range(2))
    assert [epoch for epoch, _ in first.series] == [0, 1]
    assert first.series == second.series
    assert first.judged == second.judged
    assert set(first.judged) == {f"{part}/{kind}/top1" for part in ("judge", "seen") for kind in ("knn", "linear")}
    assert first.judged["judge/linear/top1"] > 0.8  # by the very images that it learnt from
    assert first.augmented["gradient_own_share"] == pytest.approx(
        (1 - first.augmented["gradient_cosine"] ** 2) ** 0.5, abs=1e-6
    )
    assert 0 < first.step_seconds < first.seconds
    assert not run(settings, small, CPU, judged=False).judged


@pytest.fixture(scope="module")
def committed() -> Ledger:
    return Ledger(FOLDER / "results.jsonl")


def planned(committed: Ledger) -> dict[tuple[str, str, int, int, str], Task]:
    found = {}
    for name, build in stages().items():
        sweep = build(committed.results)
        assert sweep is not None, name
        found |= {task.key: task for task in tasks(name, sweep, committed.results.get(name, ()))}
    return found


def test_results_are_of_runs_that_the_plan_has(committed: Ledger) -> None:
    """So the plan was not changed after the runs."""
    plan = planned(committed)
    made = [(stage, done) for stage, each in committed.results.items() for done in each]
    assert len(made) == 356
    for stage, done in made:
        task = plan[stage, done.run.group, done.run.point, done.run.seed, done.run.purpose]
        assert task.values == done.values
        assert done.run.epochs == task.settings.training.epochs
        assert bool(done.run.judged) == (task.purpose == "compare")
    assert Counter(key[0] for key in plan) == {
        "contrasts": 119,
        "generators": 52,
        "confounds": 65,
        "diagnosis": 40,
        "diagnosis_centered": 45,
        "half": 35,
    }


def test_what_another_stage_made_is_not_made_again(committed: Ledger, tmp_path: Path) -> None:
    plan = planned(committed)
    twin = plan["confounds", "CMC", 0, 5, "compare"]
    made = plan["contrasts", "CMC", 2, 5, "compare"]
    assert twin.fingerprint == made.fingerprint
    other = plan["confounds", "CMC, bank.momentum 0.5", 0, 5, "compare"]
    assert other.fingerprint != made.fingerprint
    ledger = Ledger(tmp_path / "results.jsonl")
    ledger.add(made, run_of(committed, made), "", "CPU")
    assert not ledger.borrow(other)
    assert ledger.borrow(twin)
    again = Ledger(tmp_path / "results.jsonl")
    assert again.has(twin)
    assert again.has(made)
    assert again.results["confounds"][0].run.judged == again.results["contrasts"][0].run.judged


def run_of(committed: Ledger, task: Task) -> Outcome:
    done = next(
        each.run
        for each in committed.results[task.stage]
        if (each.run.group, each.run.point, each.run.seed, each.run.purpose) == task.key[1:]
    )
    return Outcome(list(done.series), 1.0, 0.5, dict(done.judged))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--stages", "nosuch"], "--stages: there is no nosuch; expected some of contrasts,"),
        (["report", "--results", "/no/such.jsonl"], "--results: there is no /no/such.jsonl; `run` makes one"),
        (["run", "--images", "/no/such.parquet"], "there is no /no/such.parquet; `pack` makes it"),
        (["report", "--training.epohcs", "1"], "training.epohcs: there is no such setting (got 1)"),
        (["report", "--training.epochs", "1", "--epochs", "1"], "--epochs: is no option, and no setting with a value"),
        (["report", "--compare.seeds", "-1"], "compare.seeds: got -1; expected at least 1"),
    ],
)
def test_wrong_words_are_answered_in_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    answer = capsys.readouterr().err
    assert answer.startswith("python -m jobs.studies.worth: ")
    assert said in answer
    assert answer.count("\n") == 1


def test_a_line_that_is_no_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (FOLDER / "results.jsonl").read_text().splitlines()[0]
    file = tmp_path / "results.jsonl"
    for broken in (whole[:200], '{"a": 1}', "[1, 2]"):
        file.write_text(f"{whole}\n{broken}\n")
        assert main(["report", "--results", str(file)]) == 1
        assert f"{file} line 2: is no result of this study (" in capsys.readouterr().err


def test_a_report_is_of_the_stages_that_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--stages", "half"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# half: 35 runs")
    assert "half: Eq. 10 centered | 5 |" in text
    assert "# contrasts" not in text
    assert "contrasts: " not in text


def test_the_report_has_what_the_docs_say(committed: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    text = report(stages(), committed.results)
    assert main(["report"]) == 0
    assert capsys.readouterr().out == text + "\n"
    page = (Path(__file__).resolve().parents[2] / "docs/results.md").read_text()
    rows = {
        "| contrasts: Eq. 10 | 5 | **-7.8 ± 1.0** | **-5.2 ± 1.5** |": "**-7.8 ± 1.0** | **-5.2 ± 1.5**",
        "| generators: Eq. 10 centered + MAG | 5 | -0.2 ± 1.1 | +0.1 ± 1.3 |": "-0.2 ± 1.1 | +0.1 ± 1.3",
        "| confounds: CMC, twice the epochs | 5 | **+2.2 ± 0.6** | **+1.6 ± 1.4** |": "**+2.2 ± 0.6** | **+1.6 ± 1.4**",
    }
    for row, told in rows.items():
        assert row in text
        assert told in page
