"""Whether a sweep may begin, or go on: its data, its room on the cluster, and what it was begun with."""

import logging
from typing import Any

import ray

from metaug_ray.config.pretrain import KNN_ACCURACY, PretrainSettings
from metaug_ray.config.recorded import fixed_settings, read_fixed
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.order import check_shards
from metaug_ray.data.sources.classes import other_classes
from metaug_ray.data.staging import find_manifest
from metaug_ray.runtime.cluster import nodes
from metaug_ray.runtime.placement import Placement, workers_that_fit
from metaug_ray.runtime.words import counted
from metaug_ray.training.online_checks import check_evaluation
from metaug_ray.training.resume import differences, why_not_as_long
from metaug_ray.tuning.errors import TuningError

_log = logging.getLogger(__name__)


def check_data(settings: SweepSettings, manifest: Manifest) -> None:
    """Whether batches take as much of each shard, and there are labels to go by, and others to judge by.

    Raises:
        UserError: they do not, or there are not.
    """
    data = settings.run.data
    check_shards(data.beton, len(manifest.shard_samples), settings.run.training.batch_size, data.order)
    check_evaluation(settings.run, manifest)
    knn = settings.run.health.knn
    if settings.run.health.best_metric == KNN_ACCURACY and knn.references_beton is None and not manifest.labelled:
        raise TuningError(
            f"health.best_by: {settings.run.data.beton} has no labels, so there is no kNN accuracy to search by; give "
            "a labelled beton as health.knn.references_beton, or set health.best_by rankme, which needs none"
        )
    compare = settings.compare
    if compare is None:
        return
    learnt_from = compare.train or settings.run.data.beton
    learnt = find_manifest(learnt_from)
    chosen_by = {"training": manifest, "learning": learnt}
    for deciding in filter(None, (knn.references_beton, knn.beton)):
        chosen_by[f"deciding ({deciding})"] = find_manifest(deciding)
    for name, beton in (("judge", compare.judge), ("seen", compare.seen)):
        if beton is None:
            continue
        found = find_manifest(beton)
        if not found.labelled:
            raise TuningError(f"compare.{name}: {beton} has no labels to judge by; give a beton with labels")
        if found.classes != learnt.classes:
            raise TuningError(f"compare.{name}: " + other_classes(found.classes, beton, learnt.classes, learnt_from))
        for use, other in chosen_by.items():
            if _share_images(found, other) and (name == "judge" or not use.startswith("deciding")):
                raise TuningError(
                    f"compare.{name}: images of {beton} are used for {use} too, and would judge what was chosen "
                    "by them; give images of their own (prepare_data.py --source.part makes parts of a data set)"
                )


def _share_images(one: Manifest, other: Manifest) -> bool:
    """Whether two betons are the same, or overlapping parts of one source."""
    if one.sha256 == other.sha256:
        return True
    sources = [{name: value for name, value in beton.source.items() if "part" not in name} for beton in (one, other)]
    (first, last), (begin, end) = (map(float, beton.source.get("part", "0,1").split(",")) for beton in (one, other))
    return sources[0] == sources[1] and max(first, begin) < min(last, end)


def placed(run: PretrainSettings) -> PretrainSettings:
    """A run of a sweep has one worker where nobody says how many: a run alone would take the whole cluster."""
    if run.compute.workers is not None:
        return run
    return run.model_copy(update={"compute": run.compute.model_copy(update={"workers": 1})})


def runs_at_a_time(settings: SweepSettings, placement: Placement) -> int:
    """How many runs there are at a time.

    Raises:
        TuningError: more are asked for than the cluster has room for, or hours of GPUs that it has not.
    """
    room = sum(workers_that_fit(node, placement.cpus, placement.gpu, placement.gpu_share) for node in nodes())
    room //= placement.workers
    free = ray.available_resources()
    # Fractions of a GPU that add up to one may miss it by a rounding.
    at_once = min(int(free.get(kind, 0) / (each * placement.workers) + 1e-6) for kind, each in placement.worker.items())
    if settings.search.gpu_hours is not None and not placement.gpu:
        raise TuningError(
            f"search.gpu_hours: got {settings.search.gpu_hours:g}, but the runs have no GPUs here; use search.hours"
        )
    asked = settings.search.concurrency
    each = " and ".join(f"{count:g} {kind}s" for kind, count in placement.worker.items())
    if asked is not None and asked > room:
        raise TuningError(
            f"search.concurrency: {asked} runs x {counted(placement.workers, 'worker')} x {each}, but the cluster has "
            f"room for {counted(room, 'run')} at a time; ask for at most {room}, or set compute.cpus_per_worker lower"
        )
    if at_once < 1:
        _log.warning("waiting for resources: a run needs %d x %s, and other jobs hold them", placement.workers, each)
    return asked or max(1, min(room, at_once))


def fixed(settings: SweepSettings, manifest: Manifest) -> dict[str, Any]:
    """What a sweep that is resumed shares with its beginning."""
    dumped = settings.model_dump(mode="json", exclude_defaults=True)
    search = settings.search.model_dump(mode="json", include={"kind", "seeds", "seed", "asha"})
    compare = settings.compare.model_dump(exclude={"seeds"}) if settings.compare is not None else {}
    knn = settings.run.health.knn.model_dump(mode="json")
    betons = {f"compare.{name}": beton for name, beton in compare.items()}
    betons |= {f"health.knn.{name}": knn.pop(name) for name in ("beton", "references_beton")}
    return {
        "run": fixed_settings(settings.run),
        "data": {"sha256": manifest.sha256},
        "space": dumped.get("space", {}),
        "groups": settings.model_dump(mode="json")["groups"],
        "search": search,
        "metric": settings.run.health.best_metric,
        "knn": knn,
        "judges": {name: None if beton is None else find_manifest(beton).sha256 for name, beton in betons.items()},
    }


def check_resumable(settings: SweepSettings, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Compare what a sweep was begun with, as :func:`fixed` gave it, with what it shall go on with.

    Raises:
        TuningError: its points would not be comparable; the message shows the differences.
    """
    before, now = read_fixed(old["run"]), new["run"]
    epochs = now["training"]["epochs"]
    if why_not_as_long(before["training"]["epochs"], epochs, settings.run.training.schedule.kind) is None:
        before["training"]["epochs"] = epochs
    # A comparison may be added to a search.
    if not any(name.startswith("compare.") for name in old["judges"]):
        new = new | {"judges": {name: sha for name, sha in new["judges"].items() if not name.startswith("compare.")}}
    rest = [{name: value for name, value in fixed.items() if name != "run"} for fixed in (old, new)]
    if changed := differences(before, now) + differences(rest[0], rest[1]):
        listed = "\n".join(changed)
        raise TuningError(
            f"name: sweep {settings.run.name!r} was begun with other settings:\n{listed}\nGo on with the old ones, or "
            "give a new --name. More search.trials, search.hours or compare.seeds, a comparison that is added and, "
            "where the schedule is no cosine, more training.epochs go on with a sweep"
        )
