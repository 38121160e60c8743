"""One frozen encoder, judged: from the driver."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import ray

from metaug_ray.config.evaluate import EvaluateSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.evaluation.augmented_probe import check_batch, train_augmented_probe
from metaug_ray.evaluation.checks import check_counts, distinct_shares, read_manifests
from metaug_ray.evaluation.classifiers import Classifiers, images_of_share
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.figures import figures
from metaug_ray.evaluation.find_encoder import FoundEncoder, find_encoder
from metaug_ray.evaluation.labels import drawing
from metaug_ray.evaluation.plots import draw_confusion
from metaug_ray.evaluation.readout import REPRESENTATIONS, Readout
from metaug_ray.evaluation.representations import Images, Representations, represent
from metaug_ray.evaluation.results import ALL, Result, table
from metaug_ray.evaluation.stored import Labelled
from metaug_ray.runtime.cluster import cluster, nodes, warn_if_busy
from metaug_ray.runtime.placement import Placement, place_workers
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.connection import check_tracking
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.evaluations import add_files, log_evaluation
from metaug_ray.tracking.protocol import make_protocol

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """A finished evaluation.

    Attributes:
        results: accuracies.
        found: the encoder, and where it is from.
        run_id: of the evaluation in MLflow.
    """

    results: Sequence[Result]
    found: FoundEncoder
    run_id: str


def evaluate(settings: EvaluateSettings) -> Judgement:
    """Judge an encoder, and log what was found.

    Raises:
        UserError: settings, data, cluster or MLflow do not allow it, or a worker failed.
    """
    train, test = read_manifests(settings)
    tracking = settings.tracking
    # A database that is not there holds no registered encoder.
    check_tracking(tracking.uri, tracking.experiment, new=not settings.encoder.startswith("models:/"))
    found = find_encoder(settings.encoder, settings.storage, tracking.uri)
    check_counts(settings, train)
    shares = distinct_shares(settings, train)
    try:
        readout = Readout(found, layers=settings.layers, augmented=settings.augmented_features)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    description = found.description
    _log.info(
        f"{settings.encoder}: {description.variant}, {description.model.encoder}, views "
        f"{', '.join(description.model.views)}, {counted(description.epochs, 'epoch')} on {description.data_name} "
        f"({description.checkpoint})"
    )
    compute = settings.compute
    with cluster(compute.address), tempfile.TemporaryDirectory() as scratch:
        placement = place_workers(
            compute.device,
            compute.workers,
            compute.cpus_per_worker,
            nodes(),
            gpus_per_worker=compute.gpus_per_worker,
        )
        check_batch(settings, train, placement)
        warn_if_busy(placement)
        size = settings.image_size or description.image_size
        judge = _Judge(settings, train, test, readout, placement, size, shares, Path(scratch))
        judge.stored()
        failure = judge.augmented() if settings.augmented_probe is not None else None
        print(table(judge.results), flush=True)
        run_id = judge.log(found)
        judge.draw(run_id)
        if failure is not None:
            raise EvaluationError(f"{failure}. What was found before is logged as MLflow run {run_id}") from failure
        return Judgement(judge.results, found, run_id)


class _Judge:
    """Judges one encoder, and gathers results and figures."""

    def __init__(
        self,
        settings: EvaluateSettings,
        train: Manifest,
        test: Manifest,
        readout: Readout,
        placement: Placement,
        size: int,
        shares: Sequence[float],
        scratch: Path,
    ) -> None:
        self._settings, self._train, self._test, self._size = settings, train, test, size
        self._readout, self._placement, self._scratch = readout, placement, scratch
        self._shares = shares
        self.results: list[Result] = []
        self._figures: dict[str, Callable[[Path], None]] = {}

    def stored(self) -> None:
        """By classifiers on representations of images without augmentation."""
        train = self._represent(self._settings.train, self._train)
        test = self._represent(self._settings.test, self._test)
        for part, views, index in self._selections(train):
            learnt, judged = (
                Labelled.of(parts.parts[part], index, parts.labels, ray.get_runtime_context().get_node_id())
                for parts in (train, test)
            )
            self._classify(part, views, learnt, judged)

    def augmented(self) -> EvaluationError | None:
        """By a linear classifier that is trained on augmented images. Returns why that failed, if it did, as what was
        found before is to be logged all the same."""
        try:
            top1, top5 = train_augmented_probe(self._settings, self._readout, self._size, self._train, self._placement)
        except EvaluationError as error:
            return error
        self._add(Result("augmented_linear", REPRESENTATIONS, ALL, 1.0, [top1], [top5], images=self._images(1.0)))
        return None

    def draw(self, run_id: str) -> None:
        """Draw the figures, and add them to the evaluation in MLflow, which has the results already."""
        files: list[Path] = []
        for name, draw in self._figures.items():
            with drawing(name):
                draw(self._scratch / name)
                files.append(self._scratch / name)
        try:
            add_files(run_id, files, self._settings.tracking.uri)
        except TrackingError as error:
            _log.warning("%s; the results are logged", error)

    def log(self, found: FoundEncoder) -> str:
        """Log the results to MLflow; returns the id of their run.

        Raises:
            TrackingError: MLflow does not take them; they are kept in a file.
        """
        settings = self._settings
        files = [self._scratch / "results.json", self._scratch / "results.md"]
        text = json.dumps([result.as_dict() for result in self.results], indent=2) + "\n"
        files[0].write_text(text, encoding="utf-8")
        files[1].write_text(table(self.results), encoding="utf-8")
        try:
            return log_evaluation(
                found.description,
                settings.encoder,
                " -> ".join(beton.rpartition("/")[2] for beton in (settings.train, settings.test)),
                make_protocol(
                    settings,
                    train_sha256=self._train.sha256,
                    test_sha256=self._test.sha256,
                    image_size=self._size,
                ),
                settings.model_dump(mode="json", exclude={"compute", "tracking"})
                | {"labelled_images": {result.name: result.images for result in self.results}},
                {name: value for result in self.results for name, value in result.metrics().items()},
                files,
                experiment=settings.tracking.experiment,
                uri=settings.tracking.uri,
            )
        except TrackingError as error:
            kept = settings.cache / f"unlogged_results_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}.json"
            kept.write_text(text, encoding="utf-8")
            raise TrackingError(
                f"{error}. The results are kept in {kept}; the same command logs them, from the cache"
            ) from error

    def _represent(self, beton: str, manifest: Manifest) -> Representations:
        settings = self._settings
        return represent(
            self._readout,
            Images(beton, manifest, self._size, settings.crop),
            self._placement,
            settings.cache,
            batch_size=settings.batch_size,
            precision=settings.precision,
            staging=settings.compute.staging,
        )

    def _selections(self, parts: Representations) -> list[tuple[str, str, slice]]:
        """What is judged: part, name of the encoders, and which of them along the second axis."""
        chosen = [(REPRESENTATIONS, ALL, slice(None))]
        encoders = list(self._readout.encoder.encoders)
        if self._settings.views and len(encoders) > 1:
            chosen += [(REPRESENTATIONS, encoder, slice(i, i + 1)) for i, encoder in enumerate(encoders)]
        return chosen + [(part, ALL, slice(None)) for part in parts.parts if part != REPRESENTATIONS]

    def _classify(self, part: str, views: str, learnt: Labelled, judged: Labelled) -> None:
        settings, classes = self._settings, self._train.classes
        classifiers = Classifiers(learnt, judged, len(classes), self._placement, settings.memory)
        main = part == REPRESENTATIONS and views == ALL
        predictions = classifiers.knn(settings.knn)
        accuracy = float((predictions == judged.labels).mean())
        self._add(Result("knn", part, views, 1.0, [accuracy], images=self._images(1.0)))
        shares = self._shares if main else (max(self._shares),)
        for share, probes in classifiers.probes(settings.probe, shares).items():
            top1, top5 = ([getattr(probe, kind) for probe in probes] for kind in ("top1", "top5"))
            choices = [probe.choice for probe in probes]
            self._add(Result("linear", part, views, share, top1, top5, choices, self._images(share)))
            if main and share == max(shares) and settings.plots:
                self._figures["confusion.png"] = partial(
                    draw_confusion, probes[0].predictions, judged.labels, classes, self.results[-1].name
                )
        if main and settings.plots:
            self._figures |= figures(settings, learnt, judged, self._train, self._size)

    def _images(self, share: float) -> int:
        """Labelled images to learn from."""
        return images_of_share(self._train.class_counts, share)

    def _add(self, result: Result) -> None:
        self.results.append(result)
        choice = f" ({result.choice[0]})" if result.choice else ""
        _log.info(f"{result.name}: {np.mean(result.top1):.1%}{choice}")
