from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.config import SourceSettings
from metaug_ray.config.pretrain import OnlineKnnSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.order import training_shards
from metaug_ray.data.permutation import Permutation
from metaug_ray.data.prepare import prepare
from metaug_ray.data.staging import staged
from metaug_ray.method.views import split_views
from metaug_ray.training.online_evaluation import OnlineEvaluation, _choose, _labelled, open_evaluation
from metaug_ray.training.state import build_state
from tests.data.images import settings as preparing
from tests.data.images import unlabelled_copy
from tests.ranks import run_ranks
from tests.training.small import small_settings

CPU = torch.device("cpu")


def measured(rank: int, beton: Path, queries: Path | None, world_size: int = 1) -> dict[str, float]:
    # 64 and 32, or 96 and 50: the last batches are padded.
    settings = small_settings(
        beton, health={"knn": {"references": 96 if queries else 64, "queries": 50 if queries else 32}}
    )
    model = build_state(settings, 96, CPU).metaug.model
    online = OnlineEvaluation(settings, beton, queries, cpus=1, device=CPU, rank=rank, world_size=world_size)
    found = online.measure(model)
    assert model.eager_encoder.training
    return found


def representations(beton: Path) -> tuple[Tensor, list[int]]:
    """Of the chosen images [96, 2, H] and their labels, one image at a time."""
    encoder = build_state(small_settings(beton), 96, CPU).metaug.model.eager_encoder.eval()
    features, labels = [], []
    for batch in EvaluationLoader(beton, 1, 32, cpus=1, device=CPU, images=_labelled(beton, 96)):
        with torch.no_grad():
            features.append(encoder(split_views(batch.images, ("l", "ab"))).representations[:, 0])
        labels.append(int(batch.labels[0]))
    return torch.stack(features), labels


def accuracy_by_hand(representations: Tensor, labels: list[int]) -> float:
    features = F.normalize(representations.flatten(1), dim=1)
    right = 0
    for query in range(64, 96):
        cosines = features[:64] @ features[query]
        votes: dict[int, float] = {}
        for i in cosines.topk(20).indices.tolist():
            votes[labels[i]] = votes.get(labels[i], 0.0) + float((cosines[i] / 0.07).exp())
        right += max(votes, key=lambda label: votes[label]) == labels[query]
    return right / 32


def rank_by_hand(features: Tensor) -> float:
    shares = torch.linalg.svdvals(features.double())
    shares /= shares.sum()
    return float((-(shares * shares.log()).sum()).exp())


def test_is_the_same_by_hand_and_on_any_number_of_ranks(shapes_beton: Path, tmp_path: Path) -> None:
    one = measured(0, shapes_beton, None)
    features, labels = representations(shapes_beton)
    ranks = [rank_by_hand(view) for view in features[:64].unbind(1)]
    expected = {"knn/accuracy": accuracy_by_hand(features, labels), "rankme/l": ranks[0], "rankme/ab": ranks[1]}
    assert one == pytest.approx(expected | {"rankme/mean": sum(ranks) / 2}, rel=1e-3)
    # Batches of other sizes are rounded otherwise.
    for two in run_ranks(2, tmp_path / "two", measured, shapes_beton, None, 2):
        assert two == pytest.approx(one, rel=1e-4)
        assert two["knn/accuracy"] == one["knn/accuracy"]
    other = measured(0, shapes_beton, shapes_beton)
    for three in run_ranks(3, tmp_path / "three", measured, shapes_beton, shapes_beton, 3):
        assert three == pytest.approx(other, rel=1e-4)
        assert three["knn/accuracy"] == other["knn/accuracy"]
    # Every query is its own nearest reference here.
    assert other["knn/accuracy"] > one["knn/accuracy"]


def test_references_and_queries_are_a_fixed_choice_of_all_classes(shapes_beton: Path) -> None:
    order = _labelled(shapes_beton, 96)
    assert sorted(order) == list(range(96))
    assert np.array_equal(order, _labelled(shapes_beton, 96))
    assert not np.array_equal(order, np.arange(96))


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `shapes_beton` in four shards."""
    output = tmp_path_factory.mktemp("dealt") / "dealt.beton"
    source = SourceSettings(kind="shapes", count=96, size=40)
    prepare(preparing(source, output, shards=4))
    return output


def judged_from_a_stage(rank: int, beton: Path, folder: Path, world_size: int) -> tuple[dict[str, float], list[str]]:
    """Metrics, and the shards that this rank staged: those of one training step, and those that judge."""
    chosen = small_settings(
        beton,
        health={"knn": {"every": 1, "references": 12, "queries": 10, "neighbours": 2}},
        compute={"staging": str(folder / f"{world_size}-{rank}")},
    )
    needed = partial(training_shards, batch_size=24 // world_size, rank=rank, world_size=world_size)
    there = staged(str(beton), chosen.compute.staging, needed)
    online = open_evaluation(chosen, there, cpus=1, device=CPU, rank=rank, world_size=world_size)
    assert online is not None
    found = online.measure(build_state(chosen, 96, CPU).metaug.model)
    return found, sorted(path.name for path in there.glob("0*.beton"))


def test_shards_are_judged_by_a_choice_of_all_on_any_number_of_ranks(dealt: Path, tmp_path: Path) -> None:
    one, everything = judged_from_a_stage(0, dealt, tmp_path, 1)
    assert len(everything) == 4
    assert 0 <= one["knn/accuracy"] <= 1
    expected = Permutation(96, 0, 0)[np.arange(22)]
    voters, asked = _choose(OnlineKnnSettings(references=12, queries=10), dealt, None)
    assert asked is not None
    assert (set(voters.indices), set(asked.indices)) == (set(expected[:12]), set(expected[12:]))
    for four, shards in run_ranks(4, tmp_path / "four", judged_from_a_stage, dealt, tmp_path, 4):
        assert four == pytest.approx(one, rel=1e-4)
        assert len(shards) < 4


def test_images_without_labels_are_judged_by_those_that_have_some(shapes_beton: Path, tmp_path: Path) -> None:
    unlabelled = unlabelled_copy(shapes_beton, tmp_path / "unlabelled.beton")
    model = build_state(small_settings(shapes_beton), 96, CPU).metaug.model

    def found(train: Path, **knn: object) -> dict[str, float]:
        settings = small_settings(train, health={"knn": {"every": 1, "references": 64, "queries": 32} | knn})
        online = open_evaluation(settings, train, cpus=1, device=CPU)
        assert online is not None
        return online.measure(model)

    labelled = found(shapes_beton)
    assert found(unlabelled, references_beton=str(shapes_beton)) == labelled
    # The same choice of the same images.
    without = found(unlabelled)
    assert without == {name: value for name, value in labelled.items() if name.startswith("rankme/")}
    # More references than images: all of them.
    assert found(unlabelled, references=1000)["rankme/mean"] > without["rankme/mean"]
    assert open_evaluation(small_settings(unlabelled), unlabelled, cpus=1, device=CPU) is None
    with pytest.raises(DataError, match=r"unlabelled.beton: has 0 labelled images for the kNN, .* another beton as"):
        found(unlabelled, beton=str(shapes_beton))
