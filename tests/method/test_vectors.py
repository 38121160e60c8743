"""The specification's reference values, made by an independent loop-by-loop implementation in float64."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metaug_ray.method.contrast import unified_contrast, unified_contrast_attenuated, unified_contrast_eq8
from metaug_ray.method.margins import injected_margins, margin_regularization
from metaug_ray.method.objective import Objective
from metaug_ray.method.similarities import Similarities
from metaug_ray.method.targets.bank_sample import BankSample

CASES = json.loads((Path(__file__).parent / "vectors.json").read_text())["cases"]


class Case:
    def __init__(self, case: dict[str, Any]) -> None:
        features, augmented, bank = (
            torch.tensor(case["input"][name], dtype=torch.float64) for name in ("features", "augmented", "bank")
        )
        index, negatives = (torch.tensor(case["input"][name]) for name in ("index", "negatives"))
        none = torch.empty(0, dtype=torch.int64)
        slots = tuple(range(len(bank)))
        sample = BankSample(index, bank[:, index], bank[:, negatives], (none, none), bank[:, :0], slots)
        self.original = sample.similarities(features)
        self.augmented = sample.similarities(augmented)
        self.together = Similarities(
            torch.cat([self.original.positives, self.augmented.positives], 1),
            torch.cat([self.original.negatives, self.augmented.negatives], 1),
        )
        self.hyper = case["hyper"]
        self.expect = case["expect"]

    def check(self, name: str, value: Tensor) -> None:
        expected = torch.tensor(self.expect[name], dtype=torch.float64)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)


@pytest.fixture(params=CASES, ids=lambda case: "V{views} B{batch} D{dim} N{bank} K{negatives}".format(**case["shape"]))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_similarities(case: Case) -> None:
    case.check("positives", case.original.positives)
    case.check("negatives_sum_per_anchor", case.original.negatives.sum((1, 2)))


def test_contrasts(case: Case) -> None:
    beta, gamma = case.hyper["beta"], case.hyper["gamma"]
    case.check("oucl_original", unified_contrast(*case.original, beta=beta, gamma=gamma))
    case.check("oucl_unified", unified_contrast(*case.together, beta=beta, gamma=gamma))
    case.check("oucl_eq8", unified_contrast_eq8(*case.original, beta=beta, margin=case.hyper["lambda"]))
    case.check("oucl_phi", unified_contrast_attenuated(*case.original, beta=beta, gamma=gamma, phi=case.hyper["phi"]))


def test_objective(case: Case) -> None:
    contrast = partial(unified_contrast, beta=case.hyper["beta"], gamma=case.hyper["gamma"])
    objective = Objective(contrast, delta=case.hyper["delta"], alpha=0.3)
    losses = objective(case.original, case.augmented)
    case.check("oucl_original", losses.original)
    case.check("oucl_unified", losses.augmented)
    case.check("metaug", losses.total)
    regularizer = objective.generator_objective(losses, case.original, case.augmented) - losses.total
    case.check("regularizer_large", regularizer / 0.3)


@pytest.mark.parametrize("kind", ["large", "medium", "small"])
def test_margins_and_regularizer(case: Case, kind: Any) -> None:
    margins = injected_margins(*case.original, kind)
    case.check(f"margin_{kind}", torch.stack(margins))
    case.check(f"regularizer_{kind}", margin_regularization(*case.augmented, *margins))
    objective = Objective(partial(unified_contrast, beta=1, gamma=0), margin=kind)
    case.check(f"regularizer_{kind}", objective.regularization(case.original, case.augmented))


def test_every_reference_value_is_checked() -> None:
    checked = {"positives", "negatives_sum_per_anchor", "metaug"}
    checked |= {f"oucl_{name}" for name in ("original", "unified", "eq8", "phi")}
    checked |= {f"{what}_{kind}" for what in ("margin", "regularizer") for kind in ("large", "medium", "small")}
    assert all(set(case["expect"]) == checked for case in CASES)
