import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from metaug_ray.knn import nearest_neighbours, nearest_of, weighted_knn


def by_hand(references: list[list[float]], labels: list[int], query: list[float], k: int, t: float) -> int:
    """Wu et al. 2018, one query at a time."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    nearest = sorted(range(len(labels)), key=lambda i: -cosine(references[i], query))[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(cosine(references[i], query) / t)
    return max(votes, key=lambda label: votes[label])


@pytest.mark.parametrize(("k", "t"), [(1, 0.07), (5, 0.07), (20, 1.0), (100, 0.5)])
def test_is_the_vote_of_the_nearest(k: int, t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (60,), generator=generator)
    queries = torch.randn(1500, 8, generator=generator, dtype=torch.float64)  # more than one part
    found = weighted_knn(references, labels, queries, classes=4, neighbours=k, temperature=t)
    expected = [by_hand(references.tolist(), labels.tolist(), query, k, t) for query in queries[:200].tolist()]
    assert found[:200].tolist() == expected
    last = by_hand(references.tolist(), labels.tolist(), queries[-1].tolist(), k, t)
    assert (len(found), int(found[-1])) == (1500, last)


def test_a_small_temperature_does_not_overflow() -> None:
    found = weighted_knn(torch.eye(3), torch.tensor([0, 1, 2]), torch.eye(3), classes=3, temperature=1e-4)
    assert found.tolist() == [0, 1, 2]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"got 0, 20, 0\.07"):
        weighted_knn(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), torch.eye(3), classes=3)
    with pytest.raises(ValueError, match=r"got 3, 0, 0\.07"):
        weighted_knn(torch.eye(3), torch.arange(3), torch.eye(3), classes=3, neighbours=0)


def test_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    references, queries = (torch.randn(count, 16, generator=generator, dtype=torch.float64) for count in (500, 300))
    labels = torch.randint(7, (500,), generator=generator)
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = theirs.fit(references, labels).predict(queries)
    assert weighted_knn(references, labels, queries, classes=7).tolist() == expected.tolist()


def test_nearest_neighbours_are_scikit_learns_whatever_is_read_at_a_time() -> None:
    generator = np.random.default_rng(0)
    references, queries = (generator.normal(size=(count, 16)).astype(np.float32) for count in (100, 5))
    distances, expected = NearestNeighbors(n_neighbors=4, metric="cosine").fit(references).kneighbors(queries)
    for rows in (1000, 30, 3):  # at once, in parts, in parts of fewer than are asked for
        similarities, nearest = nearest_neighbours(torch.tensor(references).split(rows), torch.tensor(queries), 4)
        assert nearest.tolist() == expected.tolist()
        np.testing.assert_allclose(similarities, 1 - distances, atol=1e-5)


def test_parts_of_the_references_together_are_as_all_similarities_at_once() -> None:
    """Whole numbers, so that cosines round alike; more queries than are compared at a time; shares of several tasks."""
    generator = torch.Generator().manual_seed(2)
    references, queries = (torch.randint(-9, 10, (count, 12), generator=generator).double() for count in (900, 4100))
    similarities = F.normalize(queries) @ F.normalize(references).T
    expected = similarities.topk(7)
    parts = []
    for start, stop in ((0, 500), (500, 504), (504, 900)):
        cosines, places = nearest_neighbours(references[start:stop].split(100), queries, 7)
        parts.append((cosines, places + start))
    cosines, places = nearest_of(parts, 7)
    torch.testing.assert_close(cosines, expected.values)
    # Where two are equally similar, either is right.
    torch.testing.assert_close(similarities.gather(1, places), expected.values)
    assert (places == expected.indices).double().mean() > 0.99


def test_references_are_let_go_when_the_next_ones_come() -> None:
    blocks: list[weakref.ref[torch.Tensor]] = []

    def read() -> Iterator[torch.Tensor]:
        for number in range(20):
            assert sum(block() is not None for block in blocks) <= 1
            block = torch.full((8, 3), number + 1.0)
            blocks.append(weakref.ref(block))
            yield block
            del block

    nearest_neighbours(read(), torch.eye(3), 2)
    assert len(blocks) == 20
