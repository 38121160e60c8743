from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.prepare import prepare
from metaug_ray.errors import UserError
from metaug_ray.runtime.placement import Placement
from metaug_ray.tuning import checks
from metaug_ray.tuning.checks import check_data, check_resumable, fixed, placed, runs_at_a_time
from metaug_ray.tuning.errors import TuningError
from tests.data.images import image_tree


@pytest.fixture(scope="module")
def betons(tmp_path_factory: pytest.TempPathFactory, shapes_beton: Path) -> dict[str, str]:
    """Labelled shapes that train, decide and judge; images of other classes; images without labels."""
    folder = tmp_path_factory.mktemp("betons")
    image_tree(folder / "images", classes=("a", "b"))
    sources = {
        "decide": SourceSettings(kind="shapes", count=40, size=32, seed=1),
        "judge": SourceSettings(kind="shapes", count=40, size=32, seed=2),
        "others": SourceSettings(kind="imagefolder", path=str(folder / "images")),
        "unlabelled": SourceSettings(kind="imagefolder", path=str(folder / "images"), unlabelled=True),
    }
    for name, source in sources.items():
        encoding = EncodingSettings(preset="small")
        prepare(PrepareSettings(source=source, encoding=encoding, output=folder / f"{name}.beton", workers=1))
    return {"train": str(shapes_beton)} | {name: str(folder / f"{name}.beton") for name in sources}


def sweep(betons: dict[str, str], train: str = "train", **changes: Any) -> SweepSettings:
    run = {
        "name": "sweep",
        "data": {"beton": betons[train]},
        "training": {"epochs": 4},
        "health": {"knn": {"every": 1, "beton": betons["decide"]}},
    }
    run |= changes.pop("run", {})
    space = {"method.unified.beta": {"log_uniform": [2, 256]}}
    return SweepSettings.model_validate({"run": run, "space": space} | changes)


def check(settings: SweepSettings) -> None:
    check_data(settings, read_manifest(Path(settings.run.data.beton)))


def test_images_that_decide_nothing_may_judge(betons: dict[str, str]) -> None:
    check(sweep(betons, compare={"judge": betons["judge"], "seen": betons["decide"]}))


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        (
            {"judge": "train"},
            r"compare.judge: images of .* are used for training too, and would judge what was chosen by them",
        ),
        ({"judge": "decide"}, r"compare.judge: images of .* are used for deciding \(.*decide.beton\) too"),
        ({"judge": "others"}, r"compare.judge: .*a"),
        ({"judge": "unlabelled"}, r"compare.judge: .* has no labels to judge by"),
        ({"judge": "judge", "seen": "train"}, r"compare.seen: images of .* are used for training too"),
        ({"judge": "judge", "train": "judge"}, r"compare.judge: images of .* are used for learning too"),
    ],
)
def test_images_that_decide_or_teach_do_not_judge(betons: dict[str, str], compare: dict[str, str], said: str) -> None:
    with pytest.raises(TuningError, match=said):
        check(sweep(betons, compare={name: betons[beton] for name, beton in compare.items()}))


def test_parts_of_one_source_that_overlap_do_not_judge(tmp_path: Path) -> None:
    parts = {"train": (0.0, 0.6), "decide": (0.6, 0.8), "judge": (0.8, 1.0), "more": (0.5, 0.7)}
    betons = {name: str(tmp_path / f"{name}.beton") for name in parts}
    for name, part in parts.items():
        source = SourceSettings(kind="shapes", count=80, size=32, part=part)
        encoding = EncodingSettings(preset="small")
        prepare(PrepareSettings(source=source, encoding=encoding, output=Path(betons[name]), workers=1))
    check(sweep(betons, compare={"judge": betons["judge"]}))
    with pytest.raises(TuningError, match=r"compare.judge: images of .*more.beton are used for training too"):
        check(sweep(betons, compare={"judge": betons["more"]}))


def test_without_labels_there_is_something_to_go_by_or_a_way_on(betons: dict[str, str]) -> None:
    knn: dict[str, Any] = {"every": 1}
    with pytest.raises(UserError, match=r"has no labels, .*health.knn.references_beton, or set health.best_by rankme"):
        check(sweep(betons, "unlabelled", run={"health": {"knn": knn}}))
    check(sweep(betons, "unlabelled", run={"health": {"knn": knn, "best_by": "rankme"}}))
    check(sweep(betons, "unlabelled", run={"health": {"knn": knn | {"references_beton": betons["decide"]}}}))


@pytest.fixture
def differ(betons: dict[str, str]) -> Callable[..., str]:
    """What is said of a sweep that goes on with other settings; nothing where it may."""

    def compared(before: dict[str, Any], after: dict[str, Any]) -> str:
        old, new = (sweep(betons, **changes) for changes in (before, after))
        records = [fixed(settings, read_manifest(Path(betons["train"]))) for settings in (old, new)]
        try:
            check_resumable(new, *records)
        except TuningError as error:
            return "\n".join(str(error).splitlines()[1:-1])
        return ""

    return compared


def test_what_may_grow(betons: dict[str, str], differ: Callable[..., str]) -> None:
    assert differ({}, {}) == ""
    assert differ({}, {"search": {"trials": 99, "hours": 3, "concurrency": 1}}) == ""
    assert differ({}, {"compare": {"judge": betons["judge"]}}) == ""
    assert differ({"compare": {"judge": betons["judge"]}}, {"compare": {"judge": betons["judge"], "seeds": 9}}) == ""
    assert differ({}, {"run": {"training": {"epochs": 6}}}) == ""


def test_what_may_not_change_is_shown(betons: dict[str, str], differ: Callable[..., str]) -> None:
    cosine = {"kind": "cosine"}
    found = differ(
        {"run": {"training": {"epochs": 4, "schedule": cosine}}},
        {"run": {"training": {"epochs": 6, "schedule": cosine}}},
    )
    assert found == "  training.epochs: 4 -> 6"
    assert differ({}, {"run": {"training": {"epochs": 3}}}) == "  training.epochs: 4 -> 3"
    wider = {"method.unified.beta": {"log_uniform": [2, 512]}}
    assert differ({}, {"space": wider}) == "  space.method.unified.beta.log_uniform: [2.0, 256.0] -> [2.0, 512.0]"
    assert differ({}, {"groups": {"a": {}}}).startswith("  groups.a: absent -> {}")
    assert differ({}, {"search": {"seeds": 2}}) == "  search.seeds: 1 -> 2"
    knn = {"every": 1, "beton": betons["judge"]}
    assert "judges.health.knn.beton" in differ({}, {"run": {"health": {"knn": knn}}})
    compare = [{"compare": {"judge": betons[name]}} for name in ("judge", "decide")]
    assert "judges.compare.judge" in differ(*compare)


def test_as_many_runs_at_a_time_as_there_is_room_for(betons: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"CPU": 8.0, "GPU": 2.0}
    monkeypatch.setattr(checks, "nodes", lambda: [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}])
    monkeypatch.setattr("ray.available_resources", lambda: free)
    settings = sweep(betons)
    assert runs_at_a_time(settings, Placement((1,), 1, False)) == 8
    assert runs_at_a_time(settings, Placement((2,), 2, False)) == 2
    assert runs_at_a_time(settings, Placement((1,), 1, True, 0.25)) == 8
    free["CPU"] = 3.0
    assert runs_at_a_time(settings, Placement((1,), 1, False)) == 3
    assert runs_at_a_time(sweep(betons, search={"concurrency": 5}), Placement((1,), 1, False)) == 5
    with pytest.raises(TuningError, match=r"search.gpu_hours: got 2, but the runs have no GPUs here"):
        runs_at_a_time(sweep(betons, search={"gpu_hours": 2}), Placement((2,), 2, False))
    with pytest.raises(
        TuningError, match=r"search.concurrency: 3 runs x 2 workers x 2 CPUs, but the cluster has room for 2 runs"
    ):
        runs_at_a_time(sweep(betons, search={"concurrency": 3}), Placement((2,), 2, False))


def test_a_run_of_a_sweep_has_one_worker_where_nobody_says_how_many(betons: dict[str, str]) -> None:
    assert placed(sweep(betons).run).compute.workers == 1
    assert placed(sweep(betons, run={"compute": {"workers": 2}}).run).compute.workers == 2
