"""From a finished run to an evaluated, registered encoder, on a Ray cluster of three CPUs."""

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import ray
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from metaug_ray.config import (
    AugmentedProbeSettings,
    EncodingSettings,
    EvaluateSettings,
    KnnSettings,
    PrepareSettings,
    ProbeSettings,
    RegisterSettings,
    SourceSettings,
)
from metaug_ray.config.machines import MachineSettings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.prepare import prepare
from metaug_ray.evaluation import classifiers as classify
from metaug_ray.evaluation import representations
from metaug_ray.evaluation.augmented_probe import train_augmented_probe
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.evaluate import evaluate
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.evaluation.linear_probe import train_probe_on
from metaug_ray.evaluation.probe_rows import InMemory, Streamed
from metaug_ray.evaluation.readout import AUGMENTED, REPRESENTATIONS, Readout
from metaug_ray.evaluation.register import register_encoder
from metaug_ray.evaluation.representations import Images, represent
from metaug_ray.evaluation.stored import COMPLETE
from metaug_ray.knn import weighted_knn
from metaug_ray.runtime.placement import Placement
from metaug_ray.tracking.encoders import load_encoder
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.registry import Promotion
from tests.evaluation.finished import FinishedRun, finish_run
from tests.evaluation.kept import keep
from tests.integration.jobs import workers_of
from tests.log import Log

pytestmark = pytest.mark.slow

JOBS = Path(__file__).resolve().parents[2] / "jobs"
PROBE = {"epochs": 2, "least_steps": 30, "seeds": 2, "label_shares": (1.0, 0.25)}


@pytest.fixture(scope="module")
def cluster(ray_session: tuple[str, Path]) -> Path:
    """The folder of its session."""
    return ray_session[1]


@pytest.fixture(scope="module")
def run(shapes_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finish_run(shapes_beton, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def test_beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 other shapes: no multiple of any batch."""
    output = tmp_path_factory.mktemp("test") / "test.beton"
    source = SourceSettings(kind="shapes", count=50, size=32, seed=1)
    prepare(PrepareSettings(source=source, encoding=EncodingSettings(preset="small"), output=output))
    return output


def test_any_number_of_workers_gives_the_same_and_it_is_kept(
    cluster: Path, run: FinishedRun, test_beton: Path, tmp_path: Path, log: Log
) -> None:
    source = find_encoder("run:small", run.storage, run.uri)
    readout = Readout(source, layers=True, augmented=True)
    images = Images(str(test_beton), read_manifest(test_beton), 32)

    def on(workers: int) -> dict[str, np.ndarray]:
        placement = Placement((workers,), 1, False)
        found = represent(readout, images, placement, tmp_path, batch_size=8)
        return found.parts | {"labels": found.labels}

    two = on(2)
    assert two.keys() == {"layer1", "layer2", "layer3", "layer4", REPRESENTATIONS, AUGMENTED, "labels"}
    # One worker is this process: all images in order, in other batches.
    first = 0
    for batch in EvaluationLoader(test_beton, 7, 32, cpus=1, device=torch.device("cpu")):
        parts = {name: values[batch.valid].numpy() for name, values in readout(batch.images).items()}
        parts["labels"] = batch.labels[batch.valid].numpy()
        for name, values in parts.items():
            expected = two[name][first : first + len(values)]
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        first += len(values)
    assert first == 50

    assert not any("before" in line for line in log.messages)
    again = on(1)
    assert "were computed before" in log.messages[-1]
    assert np.array_equal(again[REPRESENTATIONS], two[REPRESENTATIONS])


def test_an_interrupted_extraction_is_made_again(
    cluster: Path, run: FinishedRun, test_beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_encoder("run:small", run.storage, run.uri)
    images, placement = Images(str(test_beton), read_manifest(test_beton), 32), Placement((1,), 1, False)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = (Readout(source), images, placement, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(representations._log, "info", interrupt)
        with pytest.raises(KeyboardInterrupt):
            represent(*arguments, batch_size=8)
    found = represent(*arguments, batch_size=8)
    assert np.isfinite(found.parts[REPRESENTATIONS]).all()
    assert (np.abs(found.parts[REPRESENTATIONS]).sum((1, 2)) > 0).all()


@pytest.mark.parametrize("seen", [True, False], ids=["the file is seen", "it is on another node alone"])
def test_representations_in_parts_are_classified_as_in_one(
    cluster: Path, tmp_path: Path, seen: bool, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "_PATIENCE", 0)
    generator = np.random.default_rng(0)
    labels, judged = generator.integers(3, size=9000), generator.integers(3, size=41)
    centres = generator.normal(size=(3, 2, 3))
    train, test = ((centres[of] + generator.normal(size=(len(of), 2, 3))).astype(np.float32) for of in (labels, judged))
    here = ray.get_runtime_context().get_node_id()
    kept = [keep(tmp_path / name, *parts, node=here) for name, *parts in (("a", train, labels), ("b", test, judged))]
    if not seen:
        for part in kept:
            part.file.with_name(COMPLETE).unlink()

    def classifiers(rows: int) -> classify.Classifiers:
        """With memory for so many rows, and a copy of each."""
        return classify.Classifiers(kept[0], kept[1], 3, Placement((2,), 1, False), 2 * rows * 6 * 4 / 2**30)

    whole = [torch.tensor(part.reshape(len(part), -1)) for part in (train, test)]
    expected = weighted_knn(whole[0], torch.tensor(labels), whole[1], classes=3, neighbours=5)
    settings = ProbeSettings(epochs=1, least_steps=30, seeds=2, label_shares=(0.3,))
    for rows in (9000, 16):
        assert classifiers(rows).knn(KnnSettings(neighbours=5)).tolist() == expected.tolist()
        for seed, outcome in enumerate(classifiers(rows).probes(settings, (0.3,))[0.3]):
            chosen = classify.choose_share(labels, 0.3, seed)
            its_labels = torch.tensor(labels[chosen])
            probe = train_probe_on(
                InMemory(whole[0][chosen], its_labels)
                if rows == 9000
                else Streamed(keep(tmp_path / f"{seed}", train, labels), chosen, its_labels, 16),
                3,
                settings,
                seed,
            )
            assert outcome.predictions.tolist() == probe.logits(whole[1]).argmax(1).tolist()
            assert outcome.top1 == np.mean(outcome.predictions == judged)
    for what, least in (("linear probes", 20), ("kNN", 2)):
        progress = [re.match(rf"{what}: (\d+) % done", line) for line in log.messages]
        assert len({int(line[1]) for line in progress if line}) > least
    settings = settings.model_copy(update={"learning_rates": (2e37,), "seeds": 1})
    with pytest.raises(EvaluationError, match=r"outputs are not finite numbers: probe.learning_rates are too high"):
        classifiers(9000).probes(settings, (0.3,))


def test_representations_that_are_no_numbers_are_no_result(cluster: Path, run: FinishedRun, tmp_path: Path) -> None:
    """Neither new ones, nor those that an earlier version kept."""
    source = find_encoder("run:small", run.storage, run.uri)
    next(source.encoder.parameters()).data.fill_(1e38)
    beton, placement = run.settings.data.beton, Placement((1,), 1, False)
    with pytest.raises(EvaluationError, match=r"encoder: its representations are not finite numbers, so that nothing"):
        represent(Readout(source), Images(beton, read_manifest(Path(beton)), 32), placement, tmp_path, batch_size=8)
    broken = keep(tmp_path / "broken", np.full((4, 1, 3), np.nan), np.arange(4))
    with pytest.raises(EvaluationError, match=r"^encoder: .* its training diverged; choose an earlier checkpoint"):
        classify.Classifiers(broken, broken, 4, placement, 1).knn(KnnSettings())


def test_a_full_linear_evaluation_goes_on_where_its_worker_was_killed(
    cluster: Path, run: FinishedRun, shapes_beton: Path, test_beton: Path, tmp_path: Path, log: Log
) -> None:
    readout = Readout(find_encoder("run:small", run.storage, run.uri))

    def train(name: str) -> tuple[float, float]:
        probe = AugmentedProbeSettings(epochs=12, batch_size=16)
        settings = EvaluateSettings(
            encoder="run:small",
            train=str(shapes_beton),
            test=str(test_beton),
            storage=str(tmp_path / name),
            augmented_probe=probe,
            compute=MachineSettings(staging=tmp_path / "staged"),
        )
        (tmp_path / name).mkdir()
        # Several workers are in the next test.
        placement = Placement((1,), 1, False)
        return train_augmented_probe(settings, readout, 32, read_manifest(shapes_beton), placement)

    ended = threading.Event()

    def kill() -> None:
        # By then Ray Train knows of an earlier checkpoint.
        while not ended.is_set() and not any((tmp_path / "killed").glob("augmented-probe-*/epoch_000[5-9]")):
            time.sleep(0.01)
        workers_of(cluster)[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        killed = train("killed")
    finally:
        ended.set()
        killer.join()
    assert any("failure 1 of 3 allowed" in line for line in log.messages), log.messages
    assert any("goes on after epoch" in line for line in log.messages), log.messages
    assert killed == train("whole")


def test_a_run_becomes_a_champion(
    cluster: Path, run: FinishedRun, shapes_beton: Path, test_beton: Path, tmp_path: Path
) -> None:
    tracking = TrackingSettings(uri=run.uri)

    def judge(encoder: str, **changes: object) -> dict[str, float]:
        settings = {
            "encoder": encoder,
            "train": str(shapes_beton),
            "test": str(test_beton),
            "storage": run.storage,
            "cache": tmp_path / "cache",
            "probe": PROBE,
            "compute": {"workers": 2, "cpus_per_worker": 1},
            "tracking": tracking,
        }
        plots = changes.pop("plots", True)
        judgement = evaluate(EvaluateSettings.model_validate(settings | changes | {"plots": bool(plots)}))
        logged = MlflowClient(run.uri).get_run(judgement.run_id)
        metrics = {name: value for result in judgement.results for name, value in result.metrics().items()}
        assert logged.data.metrics == pytest.approx(metrics)
        assert logged.info.status == "FINISHED"
        files = {file.path for file in MlflowClient(run.uri).list_artifacts(judgement.run_id)}
        assert {"results.json", "results.md"} <= files
        figures = {"map.png", "neighbours.png", "confusion.png"} if plots else set()
        assert files - {"results.json", "results.md"} == figures - ({"map.png"} if plots == "but no map.png" else set())
        assert logged.data.params["labelled_images.knn"] == "96"
        return metrics

    measured = judge("run:small", augmented_probe={"epochs": 2, "batch_size": 16})
    names = {f"{kind}{part}/top1" for kind in ("knn", "linear") for part in ("", "/l", "/ab")}
    names |= {"linear/top5", "linear_25pct/top1", "linear/top1_interval", "augmented_linear/top1"}
    assert names < set(measured)
    assert measured["linear/top5"] >= measured["linear/top1"] > 0.125
    untrained = judge("random:small", layers=True, augmented_features=True, views=False, plots=False)
    assert {f"{kind}/{part}/top1" for kind in ("knn", "linear") for part in ("layer1", "augmented")} < set(untrained)

    # Figures that fail take nothing with them, and come after the results.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaug_ray.evaluation.plots.TSNE", None)
        judge("run:small", views=False, plots="but no map.png")

    wish = RegisterSettings(
        encoder="run:small", name="shapes", promote="linear/top1", storage=run.storage, tracking=tracking
    )
    registered = register_encoder(wish)
    assert registered.version == "1"
    assert registered.promotion is not None
    assert registered.promotion.promoted
    version = MlflowClient(run.uri).get_model_version_by_alias("shapes", "champion")
    assert float(version.tags["linear/top1"]) == pytest.approx(measured["linear/top1"], abs=1e-5)
    assert (version.tags["metaug.run"], version.run_id) == ("small", run.run_id)
    assert f"| linear/top1 | {100 * measured['linear/top1']:.1f}" in version.description
    assert "method:" in version.description
    assert 'mlflow.pytorch.load_model("models:/shapes/1")' in version.description

    # A newer evaluation of another kind does not stand in the way of one that compares.
    judge("run:small", knn={"neighbours": 3}, views=False, plots=False)
    assert register_encoder(wish).promotion == Promotion("1", "version 1 is the champion already", True)

    # What is pulled computes what was trained; and is judged alike.
    mlflow.set_tracking_uri(run.uri)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = find_encoder("run:small", run.storage, run.uri).encoder(images)
    assert torch.equal(load_encoder("models:/shapes@champion", run.uri)(images), expected)
    published = mlflow.pytorch.load_model("models:/shapes@latest-good")
    torch.testing.assert_close(published(images), expected, rtol=1e-4, atol=1e-5)
    again = judge("models:/shapes@champion", plots=False)
    assert again["knn/top1"] == measured["knn/top1"]
    assert again["linear/top1"] == measured["linear/top1"]


def test_other_classes_are_named(run: FinishedRun, shapes_beton: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / name / "1.png")
    other = tmp_path / "other.beton"
    source = SourceSettings(kind="imagefolder", path=str(tmp_path / "images"))
    prepare(PrepareSettings(source=source, encoding=EncodingSettings(preset="small"), output=other))
    settings = EvaluateSettings(
        encoder="run:small",
        train=str(shapes_beton),
        test=str(other),
        storage=run.storage,
        tracking=TrackingSettings(uri=run.uri),
    )
    with pytest.raises(EvaluationError, match=r"has 2 classes and .* 8: the first lacks .* and has besides 'cat'"):
        evaluate(settings)


def test_too_few_labels_are_named_before_anything_is_computed(
    run: FinishedRun, shapes_beton: Path, test_beton: Path
) -> None:
    assert classify.images_of_share(read_manifest(shapes_beton).class_counts, 0.01) == 8
    settings = EvaluateSettings.model_validate(
        {
            "encoder": "run:small",
            "storage": run.storage,
            "tracking": {"uri": run.uri},
            "train": str(shapes_beton),
            "test": str(test_beton),
            "probe": {"label_shares": (0.01,)},
        }
    )
    with pytest.raises(EvaluationError, match=r"probe.label_shares: 0.01 of the labels of .* are 8 images, and a"):
        evaluate(settings)
    settings = settings.model_copy(update={"knn": KnnSettings(neighbours=97)})
    with pytest.raises(EvaluationError, match=r"knn.neighbours: 97, but .* has 96 images with labels"):
        evaluate(settings)
    with pytest.raises(DataError, match=r"test: .*nothing.beton: no such beton"):
        evaluate(settings.model_copy(update={"test": "nothing.beton"}))
    with pytest.raises(EvaluationError, match="there is no run 'nobody'"):
        evaluate(settings.model_copy(update={"encoder": "run:nobody"}))


def test_an_unmeasured_metric_is_named_before_anything_is_registered(run: FinishedRun) -> None:
    settings = RegisterSettings(
        encoder="run:small",
        name="nothing",
        promote="knn/top7",
        storage=run.storage,
        tracking=TrackingSettings(uri=run.uri),
    )
    with pytest.raises(EvaluationError, match=r"run:small has no knn/top7; measured are"):
        register_encoder(settings)
    assert not MlflowClient(run.uri).search_registered_models("name = 'nothing'")


def test_an_interrupted_registration_leaves_no_version_and_is_made_again(run: FinishedRun) -> None:
    job = [sys.executable, str(JOBS / "register_encoder.py"), "--encoder", "run:small", "--name", "broken"]
    job += ["--storage", run.storage, "--tracking.uri", run.uri]
    client = MlflowClient(run.uri)
    assert interrupted_at("exporting run:small", job, signal.SIGKILL)[0] == -9
    told = interrupted_at("exporting run:small", job, signal.SIGTERM)
    assert told == (130, "register_encoder.py: interrupted; the same command does what is missing\n")
    assert not client.search_model_versions("name = 'broken'")

    register_encoder(
        RegisterSettings(
            encoder="run:small", name="broken", storage=run.storage, tracking=TrackingSettings(uri=run.uri)
        )
    )
    versions = client.search_model_versions("name = 'broken'")
    assert [(str(version.version), version.tags["metaug.run"]) for version in versions] == [("1", "small")]
    assert str(client.get_model_version_by_alias("broken", "latest-good").version) == "1"
    with pytest.raises(TrackingError, match=r"models:/broken@champion: MLflow at sqlite.* does not give it .*champion"):
        load_encoder("models:/broken@champion", run.uri)


def test_an_evaluation_is_told_to_stop(
    ray_session: tuple[str, Path], run: FinishedRun, shapes_beton: Path, test_beton: Path, tmp_path: Path
) -> None:
    """By SIGTERM, as schedulers do: it says so in one line, and is not aborted by Ray."""
    job = [sys.executable, str(JOBS / "evaluate_encoder.py"), "--encoder", "run:small", "--storage", run.storage]
    job += ["--train", str(shapes_beton), "--test", str(test_beton), "--tracking.uri", run.uri]
    job += ["--cache", str(tmp_path), "--compute.workers", "1", "--compute.cpus-per-worker", "1"]
    job += ["--probe.label-shares", "1", "--probe.epochs", "100000", "--no-plots", "--compute.address", ray_session[0]]
    status, said = interrupted_at("knn: ", job, signal.SIGTERM)
    assert (status, said) == (
        130,
        "evaluate_encoder.py: interrupted; the same command goes on with what is done\n",
    )


def interrupted_at(text: str, job: list[str], number: signal.Signals) -> tuple[int, str]:
    """Exit status and errors of a job that gets a signal when it prints this."""
    with subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text in line:
                process.send_signal(number)
        return process.wait(60), process.communicate()[1]


@pytest.mark.parametrize(
    ("job", "arguments", "said"),
    [
        (
            "evaluate_encoder",
            ["--encoder", "models:/x", "--train", "a", "--test", "b"],
            "encoder: models:/x names no version",
        ),
        (
            "evaluate_encoder",
            ["--encoder", "small", "--train", "a", "--test", "b"],
            "encoder: got 'small'; expected run:NAME",
        ),
        ("register_encoder", ["--encoder", "models:/x@y", "--name", "x"], "encoder: only a run's can be registered"),
        ("register_encoder", ["--encoder", "run:x", "--name", "x", "--force"], "force: says that promote may overrule"),
        (
            "register_encoder",
            ["--encoder", "run:x", "--name", "x", "--promote", "linear/top1_interval"],
            "promote: linear/top1_interval is the width of an interval",
        ),
        (
            "evaluate_encoder",
            ["--encoder", "run:x", "--train", "a", "--test", "b", "--probe.label-shares", "0,2"],
            "evaluate_encoder.py: probe.label_shares.0: got 0; expected more than 0\n"
            "probe.label_shares.1: got 2; expected at most 1\n",
        ),
        ("compare_runs", ["--metric", "x"], "unrecognized arguments: --metric x"),
    ],
)
def test_wrong_arguments_are_named_at_once(job: str, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(JOBS / f"{job}.py"), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Tuple should have" not in done.stderr
    assert "Traceback" not in done.stderr
