import copy
from typing import Any

import pytest
from pydantic import ValidationError

from metaug_ray.config import PretrainSettings
from metaug_ray.config.recorded import (
    RENAMED,
    fixed_settings,
    migrated,
    ordered_as_recorded,
    read_fixed,
    read_settings,
)

RUN = PretrainSettings.model_validate(
    {
        "data": {"beton": "/x.beton"},
        "method": {"contrast": "hard_info_nce", "hard_info_nce": {"temperature": 0.2, "class_prior": 0.3}},
    }
)
# As 0.1.0 wrote it: parameters of all contrasts side by side.
OLD_METHOD = {
    "contrast": "hard_info_nce",
    "beta": 8.0,
    "gamma": 0.3,
    "eq8_margin": 0.1,
    "phi": 2.0,
    "centered": False,
    "temperature": 0.2,
    "class_prior": 0.3,
    "concentration": 1.0,
}


def old(**changes: Any) -> dict[str, Any]:
    recorded = RUN.model_dump(mode="json")
    meta = recorded["method"]["meta"] | {"mode": "jvp"}
    rest = {name: recorded["method"][name] for name in ("generators", "generator_hidden_size", "delta", "alpha")}
    recorded["method"] = OLD_METHOD | rest | {"meta": meta}
    recorded["checkpoint"]["storage"] = recorded.pop("storage")
    knn = recorded["health"].pop("knn")
    recorded["health"] |= {f"knn_{name}": value for name, value in knn.items() if f"health.knn_{name}" in RENAMED}
    return recorded | changes


def test_settings_of_an_earlier_version_are_those_of_this_one() -> None:
    settings = read_settings(old())
    assert settings.method.hard_info_nce == RUN.method.hard_info_nce
    assert (settings.method.unified.beta, settings.method.unified_eq8.beta) == (8, 8)
    assert (settings.method.unified_eq8.margin, settings.method.unified_attenuated.phi) == (0.1, 2)
    assert (settings.storage, settings.health) == (RUN.storage, RUN.health)
    # Parameters of contrasts that were not trained make no other run.
    assert fixed_settings(settings) == fixed_settings(RUN)


def test_what_is_migrated_stays_as_it_was_given() -> None:
    recorded = old()
    before = copy.deepcopy(recorded)
    migrated(recorded)
    assert recorded == before
    new = RUN.model_dump(mode="json")
    assert migrated(new) == new


def test_every_new_name_is_a_setting() -> None:
    settings = RUN.model_dump()
    for old_name, new_names in RENAMED.items():
        for name in new_names:
            value: Any = settings
            for part in name.split("."):
                assert part in value, (old_name, name)
                value = value[part]


@pytest.mark.parametrize(
    "missing",
    [
        "method.delta",
        "training.accumulation",
        "bank",
        "data.augmentation.mixup",
        "data.augmentation.blur",
        "data.second_augmentation",
    ],
)
def test_a_setting_that_is_newer_than_the_record_is_no_difference(missing: str) -> None:
    recorded = fixed_settings(RUN)
    *parts, name = missing.split(".")
    holder = recorded
    for part in parts:
        holder = holder[part]
    del holder[name]
    assert read_fixed(recorded) == fixed_settings(RUN)


def test_a_setting_of_a_later_version_is_refused() -> None:
    recorded = fixed_settings(RUN)
    recorded["method"]["beyond"] = 1
    with pytest.raises(ValidationError, match="beyond"):
        read_fixed(recorded)


def test_a_run_that_was_begun_by_sorting_goes_on_so() -> None:
    recorded = fixed_settings(RUN)
    del recorded["data"]["order"]
    assert read_fixed(recorded)["data"]["order"] == "sort"
    assert read_settings({"name": "x", "data": {"beton": "/x.beton"}}).data.order == "sort"
    resumed = ordered_as_recorded(RUN, recorded)
    assert fixed_settings(resumed) == read_fixed(recorded)
    # Once more, by this version's record.
    assert ordered_as_recorded(RUN, fixed_settings(resumed)).data.order == "sort"
    assert ordered_as_recorded(RUN, fixed_settings(RUN)).data.order == "permutation"


def test_an_order_that_is_given_is_not_overruled() -> None:
    recorded = fixed_settings(RUN)
    del recorded["data"]["order"]
    given = PretrainSettings.model_validate({"data": {"beton": "/x.beton", "order": "permutation"}})
    assert ordered_as_recorded(given, recorded).data.order == "permutation"
