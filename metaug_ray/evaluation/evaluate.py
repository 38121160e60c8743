"""One frozen encoder, judged: from the driver."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metaug_ray.config import EvaluateSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.staging import find_manifest
from metaug_ray.evaluation.augmented_probe import check_batch, train_augmented_probe
from metaug_ray.evaluation.classify import Classifiers, Labelled, images_of_share
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.knn import nearest_neighbours
from metaug_ray.evaluation.linear_probe import LEAST_IMAGES
from metaug_ray.evaluation.networks import REPRESENTATIONS, Readout
from metaug_ray.evaluation.plots import MOST_CLASSES, draw_confusion, draw_map, draw_neighbours
from metaug_ray.evaluation.representations import Images, Representations, represent
from metaug_ray.evaluation.results import ALL, Result, table
from metaug_ray.evaluation.source import Source, find_encoder
from metaug_ray.tracking.evaluations import IMAGES, Protocol, log_evaluation
from metaug_ray.tracking.runs import TrackingError, connect
from metaug_ray.training.cluster import cluster, nodes, say_if_busy
from metaug_ray.training.placement import place_workers
from metaug_ray.training.progress_line import counted

_MAPPED, _SHOWN, _NEAREST = 2000, 8, 6
_ROWS = 16_384


@dataclass(frozen=True)
class Judgement:
    """A finished evaluation.

    Attributes:
        results: accuracies.
        source: of the encoder.
        run_id: of the evaluation in MLflow.
    """

    results: Sequence[Result]
    source: Source
    run_id: str


def evaluate(settings: EvaluateSettings, say: Callable[[str], None]) -> Judgement:
    """Judge an encoder, and log what was found.

    Raises:
        EvaluationError, TrainingError: settings, data or cluster do not allow it, or a worker failed.
        DataError: a beton is missing or broken.
        TrackingError: MLflow cannot be reached, or has no such encoder.
    """
    train, test = _manifests(settings)
    _check_classes(settings, train, test)
    # A database that is not there holds no encoder, and is no place that the run's own MLflow is in.
    connect(settings.tracking.uri, new=False)
    source = find_encoder(settings.encoder, settings.storage, settings.tracking.uri)
    _check_counts(settings, train)
    try:
        readout = Readout(source, layers=settings.layers, augmented=settings.augmented_features)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    description = source.description
    say(
        f"{settings.encoder}: {description.variant}, {description.model.encoder}, views "
        f"{', '.join(description.model.views)}, {counted(description.epochs, 'epoch')} on {description.data_name} "
        f"({description.checkpoint})"
    )
    size = settings.image_size or description.image_size
    compute = settings.compute
    with cluster(compute.address), tempfile.TemporaryDirectory() as scratch:
        placement = place_workers(compute.device, compute.workers, compute.cpus_per_worker, nodes())
        check_batch(settings, train, placement)
        say_if_busy(placement, say)
        train_parts, test_parts = (
            represent(
                readout,
                Images(beton, manifest, size, settings.crop),
                placement,
                settings.cache.expanduser(),
                batch_size=settings.batch_size,
                precision=getattr(torch, settings.precision),
                staging=compute.staging,
                say=say,
            )
            for beton, manifest in ((settings.train, train), (settings.test, test))
        )
        results: list[Result] = []
        figures: list[Path] = []
        for part, views, index in _selections(settings, train_parts, description.model.views):
            learnt, judged = (_labelled(parts, part, index) for parts in (train_parts, test_parts))
            classifiers = Classifiers(learnt, judged, len(train.classes), placement)
            main = part == REPRESENTATIONS and views == ALL
            predictions = classifiers.knn(settings.knn)
            results.append(Result("knn", part, views, 1.0, [float((predictions == judged.labels).mean())]))
            say(f"{results[-1].name}: {results[-1].top1[0]:.1%}")
            shares = settings.probe.label_shares if main else (max(settings.probe.label_shares),)
            for share, probes in classifiers.probes(settings.probe, shares, say).items():
                top1, top5 = ([getattr(probe, kind) for probe in probes] for kind in ("top1", "top5"))
                results.append(Result("linear", part, views, share, top1, top5, [p.choice for p in probes]))
                say(f"{results[-1].name}: {np.mean(top1):.1%} ({probes[0].choice})")
                if main and share == max(shares) and settings.plots:
                    path = Path(scratch, "confusion.png")
                    draw_confusion(probes[0].predictions, judged.labels, train.classes, results[-1].name, path)
                    figures.append(path)
            if main and settings.plots:
                figures += _figures(settings, learnt, judged, train, size, Path(scratch))
        if settings.augmented_probe is not None:
            probe = settings.augmented_probe
            accuracies = train_augmented_probe(settings, probe, readout, size, train, placement, say)
            results.append(Result("augmented_linear", REPRESENTATIONS, ALL, 1.0, accuracies[:1], accuracies[1:]))
        print(table(results), flush=True)
        return Judgement(results, source, _log(settings, source, results, figures, Path(scratch), (train, test), size))


def _manifests(settings: EvaluateSettings) -> list[Manifest]:
    found = []
    for name in ("train", "test"):
        try:
            found.append(find_manifest(getattr(settings, name)))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return found


def _check_classes(settings: EvaluateSettings, train: Manifest, test: Manifest) -> None:
    for beton, manifest in ((settings.train, train), (settings.test, test)):
        if not manifest.classes:
            raise DataError(f"{beton}: has no labels, so nothing can be judged by it; prepare it with labels")
    if train.sha256 == test.sha256:
        raise EvaluationError(f"test: {settings.test} holds the same images as {settings.train}; give others")
    if train.classes != test.classes:
        raise EvaluationError(
            f"test: {settings.test} has {len(test.classes)} classes ({', '.join(test.classes[:3])}...), and "
            f"{settings.train} {len(train.classes)} ({', '.join(train.classes[:3])}...); give the same ones"
        )


def _check_counts(settings: EvaluateSettings, train: Manifest) -> None:
    labelled = sum(train.class_counts)
    if settings.knn.neighbours > labelled:
        raise EvaluationError(
            f"knn.neighbours: {settings.knn.neighbours}, but {settings.train} has {labelled} images with labels; give "
            "fewer"
        )
    for share in settings.probe.label_shares:
        count = images_of_share(train.class_counts, share)
        if count < LEAST_IMAGES:
            raise EvaluationError(
                f"probe.label_shares: {share:g} of the labels of {settings.train} are {count} images, and a probe "
                f"needs {LEAST_IMAGES}; give larger shares, or more images"
            )


def _selections(
    settings: EvaluateSettings, parts: Representations, views: Sequence[str]
) -> list[tuple[str, str, slice]]:
    """What is judged: part, name of the views, and which of them along the second axis."""
    chosen = [(REPRESENTATIONS, ALL, slice(None))]
    if settings.views:
        chosen += [(REPRESENTATIONS, view, slice(i, i + 1)) for i, view in enumerate(views)]
    return chosen + [(part, ALL, slice(None)) for part in parts.parts if part != REPRESENTATIONS]


def _labelled(parts: Representations, part: str, views: slice) -> Labelled:
    images = np.flatnonzero(parts.labels >= 0)
    values = parts.parts[part][:, views]
    # Without a copy where all have labels, as this may be larger than the memory.
    values = values if len(images) == len(values) else values[images]
    return Labelled(values.reshape(len(values), -1), parts.labels[images], images)


def _figures(
    settings: EvaluateSettings, train: Labelled, test: Labelled, manifest: Manifest, size: int, folder: Path
) -> list[Path]:
    """A map of the representations, and nearest neighbours as images."""
    generator = np.random.default_rng(0)
    some = np.sort(generator.permutation(np.flatnonzero(test.labels < MOST_CLASSES))[:_MAPPED])
    if len(some) < 4 or not np.isfinite(test.representations[some]).all():
        return []
    paths = [folder / "map.png"]
    draw_map(test.representations[some], test.labels[some], manifest.classes, paths[0])
    # Images are read on this machine, by their numbers.
    if all("://" not in beton for beton in (settings.train, settings.test)):
        paths.append(folder / "neighbours.png")
        _draw_neighbours(settings, train, test, some[generator.permutation(len(some))[:_SHOWN]], size, paths[1])
    return paths


def _draw_neighbours(
    settings: EvaluateSettings, train: Labelled, test: Labelled, asked: NDArray[np.int64], size: int, path: Path
) -> None:
    blocks = (
        torch.tensor(train.representations[start : start + _ROWS]) for start in range(0, len(train.labels), _ROWS)
    )
    found = nearest_neighbours(blocks, torch.tensor(test.representations[asked]), _NEAREST)
    similarities, nearest = (part.numpy() for part in found)
    neighbours = _pixels(Path(settings.train), train.images[nearest.flatten()], size)
    draw_neighbours(
        _pixels(Path(settings.test), test.images[asked], size),
        neighbours.reshape(*nearest.shape, size, size, 3),
        train.labels[nearest] == test.labels[asked][:, None],
        similarities,
        path,
    )


def _pixels(beton: Path, indices: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """uint8 [n, S, S, 3]."""
    loader = EvaluationLoader(beton, len(indices), size, cpus=1, device=torch.device("cpu"), images=indices)
    return next(iter(loader)).images.permute(0, 2, 3, 1).numpy()


def _protocol(settings: EvaluateSettings, betons: Sequence[Manifest], size: int) -> Protocol:
    how = settings.model_dump(mode="json")
    train, test = betons
    images = {"train_sha256": train.sha256, "test_sha256": test.sha256, "image_size": size}
    protocol = {
        IMAGES: images | {name: how[name] for name in ("crop", "precision")},
        "knn": how["knn"],
        # More seeds and other shares beside make an accuracy no other one.
        "linear": {name: value for name, value in how["probe"].items() if name not in ("seeds", "label_shares")},
    }
    return protocol if settings.augmented_probe is None else protocol | {"augmented_linear": how["augmented_probe"]}


def _log(
    settings: EvaluateSettings,
    source: Source,
    results: Sequence[Result],
    figures: Sequence[Path],
    scratch: Path,
    betons: Sequence[Manifest],
    size: int,
) -> str:
    files = [scratch / "results.json", scratch / "results.md"]
    text = json.dumps([result.as_dict() for result in results], indent=2) + "\n"
    files[0].write_text(text, encoding="utf-8")
    files[1].write_text(table(results), encoding="utf-8")
    metrics = {name: value for result in results for name, value in result.metrics().items()}
    data = " -> ".join(beton.rpartition("/")[2] for beton in (settings.train, settings.test))
    try:
        return log_evaluation(
            source.description,
            settings.encoder,
            data,
            _protocol(settings, betons, size),
            settings.model_dump(mode="json", exclude={"compute", "tracking"}),
            metrics,
            [*files, *figures],
            experiment=settings.tracking.experiment,
            uri=settings.tracking.uri,
        )
    except TrackingError as error:
        kept = settings.cache.expanduser() / "unlogged_results.json"
        kept.write_text(text, encoding="utf-8")
        raise TrackingError(
            f"{error}. The results are kept in {kept}; the same command logs them, from the cache"
        ) from error
