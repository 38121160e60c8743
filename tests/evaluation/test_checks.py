from pathlib import Path

import numpy as np
import pytest

from metaug_ray.config import EvaluateSettings
from metaug_ray.data.manifest import Manifest, read_manifest
from metaug_ray.evaluation.checks import distinct_shares
from metaug_ray.evaluation.classifiers import choose_share, images_of_share
from metaug_ray.evaluation.results import Result, table
from tests.log import Log


@pytest.fixture
def small(shapes_beton: Path) -> Manifest:
    """Twenty classes of four images."""
    return read_manifest(shapes_beton).model_copy(
        update={"classes": [f"class{n:02}" for n in range(20)], "class_counts": [4] * 20, "samples": 80}
    )


def settings(*shares: float) -> EvaluateSettings:
    return EvaluateSettings.model_validate(
        {"encoder": "run:x", "train": "a.beton", "test": "b.beton", "probe": {"label_shares": shares}}
    )


def test_shares_that_are_the_same_images_are_one_result(small: Manifest, log: Log) -> None:
    assert distinct_shares(settings(1, 0.1, 0.01), small) == (1, 0.1)
    assert log.messages == [
        "probe.label_shares: 0.1 of the labels is 20 of 80 images here, 25 %, as each class gives whole images, and at "
        "least one",
        "probe.label_shares: 0.01 is left out: it is the same 20 images as 0.1, as each class gives whole images, and "
        "at least one",
    ]
    # They are the same indeed.
    labels = np.repeat(np.arange(20), 4)
    assert choose_share(labels, 0.1, 3).tolist() == choose_share(labels, 0.01, 3).tolist()


def test_shares_that_are_what_they_say_are_taken_without_a_word(small: Manifest, log: Log) -> None:
    large = small.model_copy(update={"class_counts": [1000] * 20})
    assert distinct_shares(settings(0.01, 1, 0.1), large) == (0.01, 1, 0.1)
    # Given twice, it is one result.
    assert distinct_shares(settings(1, 1), large) == (1,)
    assert distinct_shares(settings(0.5), small) == (0.5,)
    assert log.messages == []


def test_a_result_tells_the_images_that_it_learnt_from(small: Manifest) -> None:
    result = Result("linear", "representations", "all", 0.001, [0.5], images=images_of_share(small.class_counts, 0.001))
    assert result.as_dict()["images"] == 20
    assert "| 0.1 % (20 images) | 50.0 % |" in table([result])
