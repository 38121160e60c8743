"""One frozen encoder, judged: from the driver."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metaug_ray.config.evaluate import EvaluateSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.evaluation.augmented_probe import check_batch, train_augmented_probe
from metaug_ray.evaluation.checks import check_counts, read_manifests
from metaug_ray.evaluation.classifiers import Classifiers, Labelled
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.figures import draw_figures
from metaug_ray.evaluation.find_encoder import FoundEncoder, find_encoder
from metaug_ray.evaluation.plots import draw_confusion
from metaug_ray.evaluation.readout import REPRESENTATIONS, Readout
from metaug_ray.evaluation.representations import Images, Representations, represent
from metaug_ray.evaluation.results import ALL, Result, table
from metaug_ray.runtime.cluster import cluster, nodes, warn_if_busy
from metaug_ray.runtime.placement import Placement, place_workers
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.connection import connect
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.evaluations import log_evaluation
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
    # A database that is not there holds no encoder, and is no place that the run's own MLflow is in.
    connect(settings.tracking.uri, new=False)
    found = find_encoder(settings.encoder, settings.storage, settings.tracking.uri)
    check_counts(settings, train)
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
        placement = place_workers(compute.device, compute.workers, compute.cpus_per_worker, nodes())
        check_batch(settings, train, placement)
        warn_if_busy(placement)
        size = settings.image_size or description.image_size
        judge = _Judge(settings, train, test, readout, placement, size, Path(scratch))
        judge.stored()
        if settings.augmented_probe is not None:
            judge.augmented()
        print(table(judge.results), flush=True)
        return Judgement(judge.results, found, judge.log(found))


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
        scratch: Path,
    ) -> None:
        self._settings, self._train, self._test, self._size = settings, train, test, size
        self._readout, self._placement, self._scratch = readout, placement, scratch
        self.results: list[Result] = []
        self._figures: list[Path] = []

    def stored(self) -> None:
        """By classifiers on representations of images without augmentation."""
        train = self._represent(self._settings.train, self._train)
        test = self._represent(self._settings.test, self._test)
        for part, views, index in self._selections(train):
            learnt, judged = (_labelled(parts, part, index) for parts in (train, test))
            self._classify(part, views, learnt, judged)

    def augmented(self) -> None:
        """By a linear classifier that is trained on augmented images."""
        top1, top5 = train_augmented_probe(self._settings, self._readout, self._size, self._train, self._placement)
        self.results.append(Result("augmented_linear", REPRESENTATIONS, ALL, 1.0, [top1], [top5]))

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
                settings.model_dump(mode="json", exclude={"compute", "tracking"}),
                {name: value for result in self.results for name, value in result.metrics().items()},
                [*files, *self._figures],
                experiment=settings.tracking.experiment,
                uri=settings.tracking.uri,
            )
        except TrackingError as error:
            kept = settings.cache / "unlogged_results.json"
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
        """What is judged: part, name of the views, and which of them along the second axis."""
        chosen = [(REPRESENTATIONS, ALL, slice(None))]
        if self._settings.views:
            views = self._readout.encoder.views
            chosen += [(REPRESENTATIONS, view, slice(i, i + 1)) for i, view in enumerate(views)]
        return chosen + [(part, ALL, slice(None)) for part in parts.parts if part != REPRESENTATIONS]

    def _classify(self, part: str, views: str, learnt: Labelled, judged: Labelled) -> None:
        settings, classes = self._settings, self._train.classes
        classifiers = Classifiers(learnt, judged, len(classes), self._placement)
        main = part == REPRESENTATIONS and views == ALL
        predictions = classifiers.knn(settings.knn)
        self._add(Result("knn", part, views, 1.0, [float((predictions == judged.labels).mean())]))
        shares = settings.probe.label_shares if main else (max(settings.probe.label_shares),)
        for share, probes in classifiers.probes(settings.probe, shares).items():
            top1, top5 = ([getattr(probe, kind) for probe in probes] for kind in ("top1", "top5"))
            self._add(Result("linear", part, views, share, top1, top5, [probe.choice for probe in probes]))
            if main and share == max(shares) and settings.plots:
                path = self._scratch / "confusion.png"
                draw_confusion(probes[0].predictions, judged.labels, classes, self.results[-1].name, path)
                self._figures.append(path)
        if main and settings.plots:
            self._figures += draw_figures(settings, learnt, judged, self._train, self._size, self._scratch)

    def _add(self, result: Result) -> None:
        self.results.append(result)
        choice = f" ({result.choice[0]})" if result.choice else ""
        _log.info(f"{result.name}: {np.mean(result.top1):.1%}{choice}")


def _labelled(parts: Representations, part: str, views: slice) -> Labelled:
    images = np.flatnonzero(parts.labels >= 0)
    values = parts.parts[part][:, views]
    # Without a copy where all have labels, as this may be larger than the memory.
    values = values if len(images) == len(values) else values[images]
    return Labelled(values.reshape(len(values), -1), parts.labels[images], images)
