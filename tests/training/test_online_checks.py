from pathlib import Path
from typing import Any

import pytest

from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import manifest_path, read_manifest
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.online_checks import check_evaluation
from tests.data.images import unlabelled_copy
from tests.training.small import small_settings


@pytest.fixture(scope="module")
def betons(shapes_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`labelled`; `other`, of the same classes; `ten`, of one class more; `none`, without labels; `empty`, with classes
    alone."""
    folder = tmp_path_factory.mktemp("betons")
    manifest = read_manifest(shapes_beton)
    changes: dict[str, dict[str, Any]] = {
        "other": {"sha256": "1" * 64},
        "ten": {"sha256": "2" * 64, "classes": [*manifest.classes, "extra"]},
        "empty": {"sha256": "3" * 64, "class_counts": [0] * len(manifest.classes)},
    }
    for name, change in changes.items():
        beton = folder / f"{name}.beton"
        beton.write_bytes(shapes_beton.read_bytes())
        manifest_path(beton).write_text(manifest.model_copy(update=change).model_dump_json())
    made = {name: folder / f"{name}.beton" for name in changes}
    return made | {"labelled": shapes_beton, "none": unlabelled_copy(shapes_beton, folder / "none.beton")}


def check(betons: dict[str, Path], train: str, voters: str | None, queries: str | None, **health: Any) -> None:
    places = {"references_beton": voters, "beton": queries}
    named = {name: str(betons.get(place, place)) for name, place in places.items() if place is not None}
    settings = small_settings(betons[train], health=health | {"knn": {"every": 1} | named | health.get("knn", {})})
    check_evaluation(settings, read_manifest(betons[train]))


@pytest.mark.parametrize(
    ("train", "voters", "queries", "health"),
    [
        ("none", None, None, {}),
        ("none", None, None, {"best_by": "rankme"}),
        ("none", "labelled", None, {"best_by": "knn"}),
        ("none", "labelled", "other", {}),
        ("labelled", "ten", None, {}),
        ("labelled", "other", "labelled", {}),
        ("labelled", None, "other", {"best_by": "knn"}),
        ("none", None, "/nowhere.beton", {"knn": {"every": 0}}),
    ],
)
def test_what_can_be_measured_is_accepted(
    betons: dict[str, Path], train: str, voters: str | None, queries: str | None, health: dict[str, Any]
) -> None:
    check(betons, train, voters, queries, **health)


@pytest.mark.parametrize(
    ("train", "voters", "queries", "said"),
    [
        ("none", None, "labelled", r"^health.knn.beton: .*none.beton has no labels that could vote; give a labelled"),
        ("none", "none", None, r"^health.knn.references_beton: .*none.beton has no labels; give .*, or leave health"),
        ("none", "empty", None, r"^health.knn.references_beton: .*empty.beton has no labels"),
        ("labelled", None, "empty", r"^health.knn.beton: .*empty.beton has no labels"),
        ("none", "ten", "labelled", r"^health.knn.beton: .*shapes.beton has 8 classes and .*ten.beton 9: the first"),
        ("none", "labelled", "labelled", r"^health.knn.beton: .*holds the images of .*so each would find itself"),
        ("labelled", "/nowhere.beton", None, r"^health.knn.references_beton: /nowhere.beton: no such beton; make it"),
        ("labelled", None, "/nowhere.beton", r"^health.knn.beton: /nowhere.beton: no such beton; make it"),
    ],
)
def test_betons_that_cannot_judge_are_named(
    betons: dict[str, Path], train: str, voters: str | None, queries: str | None, said: str
) -> None:
    with pytest.raises((TrainingError, DataError), match=said):
        check(betons, train, voters, queries)


def test_the_best_by_knn_needs_labels_where_it_is_asked_for(betons: dict[str, Path]) -> None:
    with pytest.raises(TrainingError, match=r"^health.best_by: knn, but .*none.beton has no labels .*best_by rankme"):
        check(betons, "none", None, None, best_by="knn")
