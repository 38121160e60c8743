from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.method.views import split_views
from metaug_ray.training.online_knn import OnlineKnn, _labelled
from metaug_ray.training.state import build_state
from tests.ranks import run_ranks
from tests.training.small import small_settings

CPU = torch.device("cpu")


def accuracy(rank: int, beton: Path, queries: Path | None, world_size: int = 1) -> float:
    # 64 and 32, or 96 and 50: the last batches are padded.
    settings = small_settings(
        beton, health={"knn": {"references": 96 if queries else 64, "queries": 50 if queries else 32}}
    )
    state = build_state(settings, 96, CPU)
    model = state.metaug.model
    knn = OnlineKnn(settings, beton, queries, cpus=1, device=CPU, rank=rank, world_size=world_size)
    found = knn.accuracy(model)
    assert model.eager_encoder.training
    return found


def by_hand(beton: Path) -> float:
    """One image at a time."""
    settings = small_settings(beton)
    encoder = build_state(settings, 96, CPU).metaug.model.eager_encoder.eval()
    chosen = _labelled(beton)
    features, labels = [], []
    for batch in EvaluationLoader(beton, 1, 32, cpus=1, device=CPU, images=chosen):
        with torch.no_grad():
            h = encoder(split_views(batch.images, ("l", "ab"))).representations
        features.append(F.normalize(torch.cat([h[0, 0], h[1, 0]]), dim=0))
        labels.append(int(batch.labels[0]))
    right = 0
    for query in range(64, 96):
        cosines = torch.stack([features[query] @ features[i] for i in range(64)])
        votes: dict[int, float] = {}
        for i in cosines.topk(20).indices.tolist():
            votes[labels[i]] = votes.get(labels[i], 0.0) + float((cosines[i] / 0.07).exp())
        right += max(votes, key=lambda label: votes[label]) == labels[query]
    return right / 32


def test_is_the_vote_over_held_out_images_on_any_number_of_ranks(shapes_beton: Path, tmp_path: Path) -> None:
    one = accuracy(0, shapes_beton, None)
    assert one == pytest.approx(by_hand(shapes_beton))
    assert run_ranks(2, tmp_path / "two", accuracy, shapes_beton, None, 2) == [one] * 2
    other = accuracy(0, shapes_beton, shapes_beton)
    assert run_ranks(3, tmp_path / "three", accuracy, shapes_beton, shapes_beton, 3) == [other] * 3
    # Every query is its own nearest reference here.
    assert other > one


def test_references_and_queries_are_a_fixed_choice_of_all_classes(shapes_beton: Path) -> None:
    order = _labelled(shapes_beton)
    assert sorted(order) == list(range(96))
    assert np.array_equal(order, _labelled(shapes_beton))
    assert not np.array_equal(order, np.arange(96))
