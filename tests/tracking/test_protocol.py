from metaug_ray.config import EvaluateSettings
from metaug_ray.tracking.connection import flat
from metaug_ray.tracking.description import read_deciding
from metaug_ray.tracking.protocol import hashes, make_protocol, nested, read_protocol

SETTINGS = EvaluateSettings.model_validate(
    {
        "encoder": "run:x",
        "train": "/a.beton",
        "test": "/b.beton",
        "probe": {"learning_rates": (1e-3, 3e-3), "seeds": 2},
        "augmented_probe": {"epochs": 2, "augmentation": {"color_jitter": {"hue": 0.2}}},
    }
)
SHA = {"train_sha256": "12" * 32, "test_sha256": "1e5" + "0" * 61}
"""Checksums that look like numbers."""


def test_a_protocol_is_read_back_from_text() -> None:
    protocol = make_protocol(SETTINGS, **SHA, image_size=32)
    assert set(protocol) == {"images", "knn", "linear", "augmented_linear"}
    assert not {"seeds", "label_shares"} & set(protocol["linear"])
    again = read_protocol(flat(dict(protocol)))
    assert again == protocol
    assert hashes(again) == hashes(protocol)
    assert len(set(hashes(protocol).values())) == 4


def test_a_setting_that_is_newer_than_the_record_makes_no_other_protocol() -> None:
    protocol = make_protocol(SETTINGS, **SHA, image_size=32)
    text = flat(dict(protocol))
    for newer in ("knn.temperature", "linear.least_steps", "augmented_linear.augmentation.mixup"):
        del text[newer]
    assert hashes(read_protocol(text)) == hashes(protocol)
    text["linear.batch_size"] = "7"
    changed = hashes(read_protocol(text))
    assert {name for name, value in hashes(protocol).items() if changed[name] != value} == {"linear"}


def test_what_this_version_does_not_know_stays_as_it_is() -> None:
    text = {"images.crop": "1.0", "linear.beyond": "[1, 2]", "forest.trees": "7"}
    assert read_protocol(text) == {"images": {"crop": 1.0}, "linear": {"beyond": [1, 2]}, "forest": {"trees": 7}}
    # An encoder that somebody added, and settings of a later version.
    assert read_deciding({"model": {"encoder": "vit"}}) == {"model": {"encoder": "vit"}}
    assert read_deciding({"name": "x", "seed": 3, "beyond": 1}) == {"beyond": 1}


def test_texts_become_values_only_where_they_were_ones() -> None:
    assert nested({"a.b": "None", "a.c": "1e5", "d": "['l', 'ab']", "e": "0.05", "f": "True", "g": "x y"}) == {
        "a": {"b": None, "c": "1e5"},
        "d": ["l", "ab"],
        "e": 0.05,
        "f": True,
        "g": "x y",
    }
