"""The specification's reference values of MetAug*, made by an independent loop-by-loop implementation in float64."""

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from metaug_ray.method.contrast import info_nce, unified_contrast
from metaug_ray.method.margins import injected_margins, margin_regularization
from metaug_ray.method.objective import Objective
from metaug_ray.method.similarities import Similarities
from metaug_ray.method.targets import BatchTargets, NeighbourTargets
from metaug_ray.method.targets.support_set import SupportSet

CASES = json.loads((Path(__file__).parents[1] / "vectors_star.json").read_text())["cases"]
Form = Literal["neighbours", "batch"]


class Case:
    def __init__(self, case: dict[str, Any]) -> None:
        self.given = {name: torch.tensor(value, dtype=torch.float64) for name, value in case["input"].items()}
        self.hyper, self.expect = case["hyper"], case["expect"]
        _, batch, size = self.given["z"].shape
        self.index = torch.arange(batch)
        self.batch = BatchTargets(2, size)
        self.support = SupportSet(case["shape"]["support"], 1, size, dtype=torch.float64)
        oldest = self.given["oldest_row"].long()
        self.support.load_state_dict({"rows": self.given["support"].unsqueeze(0), "oldest": oldest})
        self.neighbours = NeighbourTargets((0, 0), self.support, size)

    def similarities(self, form: Form) -> tuple[Similarities, Similarities]:
        z = self.given["z"]
        if form == "batch":
            keys = self.batch.ask(self.index, 0).keys(z)
            return keys.similarities(z, z), keys.similarities(self.given["augmented_z"], z)
        p = self.given["p"]
        neighbours = self.neighbours.ask(self.index, 0).keys(z)
        return neighbours.similarities(p, p), neighbours.similarities(self.given["augmented_p"], p)

    def check(self, value: Tensor, *names: str) -> None:
        expected = self.expect
        for name in names:
            expected = expected[name]
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.fixture(params=CASES, ids=lambda case: "B{batch} D{dim} S{support}".format(**case["shape"]))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_neighbours_and_support_set(case: Case) -> None:
    z = case.given["z"]
    rows = torch.stack([case.support.nearest(view, 0) for view in z])
    assert rows.tolist() == case.expect["neighbour_rows"]
    case.neighbours.update(case.neighbours.ask(case.index, 0).keys(z), z)
    case.check(case.support.state_dict()["rows"][0], "support_after")


@pytest.mark.parametrize("form", ["neighbours", "batch"])
def test_losses(case: Case, form: Form) -> None:
    original, augmented = case.similarities(form)
    case.check(original.positives, form, "positives")
    case.check(original.negatives.flatten(1), form, "negatives")
    case.check(info_nce(*original, temperature=case.hyper["temperature"]), form, "info_nce")
    contrast = partial(unified_contrast, beta=case.hyper["beta"], gamma=case.hyper["gamma"])
    losses = Objective(contrast, delta=case.hyper["delta"], alpha=0.3)(original, augmented)
    case.check(losses.original, form, "oucl_original")
    case.check(losses.augmented, form, "oucl_unified")
    case.check(losses.total, form, "metaug")


@pytest.mark.parametrize("kind", ["large", "medium", "small"])
@pytest.mark.parametrize("form", ["neighbours", "batch"])
def test_margins_and_regularizer(case: Case, form: Form, kind: Any) -> None:
    original, augmented = case.similarities(form)
    margins = injected_margins(*original, kind)
    case.check(torch.stack(margins), form, f"margin_{kind}")
    case.check(margin_regularization(*augmented, *margins), form, f"regularizer_{kind}")


def test_every_reference_value_is_checked() -> None:
    checked = {"positives", "negatives", "info_nce", "oucl_original", "oucl_unified", "metaug"}
    checked |= {f"{what}_{kind}" for what in ("margin", "regularizer") for kind in ("large", "medium", "small")}
    for case in CASES:
        assert set(case["expect"]) == {"neighbour_rows", "support_after", "neighbours", "batch"}
        assert set(case["expect"]["neighbours"]) == set(case["expect"]["batch"]) == checked
