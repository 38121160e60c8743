"""One data set of many betons: written, read by any number of ranks, and staged in part."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaug_ray.data.data_set import DataSet
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import EvaluationLoader, PretrainingLoader
from metaug_ray.data.manifest import manifest_path, read_manifest
from metaug_ray.data.order import evaluation_shards, training_shards
from metaug_ray.data.prepare import prepare
from metaug_ray.data.sources.classes import read_classes
from metaug_ray.data.staging import find_manifest, stage, verify_in_place
from metaug_ray.preflight.betons import look_at_beton
from tests.data.images import image_tree, settings
from tests.data.probe import CROPS, fingerprint

CPU = torch.device("cpu")
SHARDS = [19, 19, 19, 18]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 images in one beton."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(settings(image_tree(folder / "tree", per_class=25), folder / "x.beton"))
    return folder / "x.beton"


@pytest.fixture(scope="module")
def dealt(whole: Path) -> Path:
    """The same images in four shards."""
    output = whole.with_name("dealt.beton")
    prepare(settings(whole.with_name("tree"), output, shards=4, workers=2))
    return output


@pytest.fixture
def copy(dealt: Path, tmp_path: Path) -> Path:
    shutil.copytree(dealt, tmp_path / dealt.name)
    shutil.copy(manifest_path(dealt), tmp_path)
    return tmp_path / dealt.name


def images_of(beton: Path, **options: Any) -> dict[int, tuple[bytes, int]]:
    """Pixels and labels by index."""
    found: dict[int, tuple[bytes, int]] = {}
    for batch in EvaluationLoader(beton, 7, 32, cpus=1, device=CPU, **options):
        for index, image, label, valid in zip(batch.indices, batch.images, batch.labels, batch.valid, strict=True):
            if valid:
                assert int(index) not in found
                found[int(index)] = image.contiguous().numpy().tobytes(), int(label)
    return found


def pretraining(beton: Path, batch_size: int, **options: Any) -> PretrainingLoader:
    return PretrainingLoader(beton, batch_size, 32, CROPS, **{"seed": 3, "cpus": 1, "device": CPU} | options)


def test_images_are_dealt_one_after_another(whole: Path, dealt: Path) -> None:
    manifest, one = read_manifest(dealt), read_manifest(whole)
    assert [shard.samples for shard in manifest.shards] == SHARDS
    for name in ("samples", "classes", "class_counts", "height", "width", "encoding", "source", "grey", "dark"):
        assert getattr(manifest, name) == getattr(one, name), name
    assert sorted(path.name for path in dealt.iterdir()) == [
        f"{number:05}.beton{suffix}" for number in range(4) for suffix in ("", ".json")
    ]
    # Each is a beton of its own.
    for shard in manifest.shards:
        own = verify_in_place(dealt / shard.name)
        assert (own.samples, own.sha256, own.classes) == (shard.samples, shard.sha256, one.classes)
        assert max(own.class_counts) - min(own.class_counts) <= 1
    assert verify_in_place(dealt) == manifest
    expected = images_of(whole)
    source = [number for shard in range(4) for number in range(shard, 75, 4)]
    assert images_of(dealt) == {index: expected[number] for index, number in enumerate(source)}


def test_one_shard_is_a_beton_as_ever(whole: Path, tmp_path: Path) -> None:
    manifest = prepare(settings(whole.with_name("tree"), tmp_path / "one.beton", shards=1))
    assert manifest.sha256 == read_manifest(whole).sha256
    assert "shards" not in json.loads(manifest_path(tmp_path / "one.beton").read_text())


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 80])
def test_evaluation_reads_each_image_once(dealt: Path, ranks: int) -> None:
    parts = [images_of(dealt, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert sum(map(len, parts)) == 75
    assert {index: image for part in parts for index, image in part.items()} == images_of(dealt)


def test_chosen_images_come_in_the_order_asked_for(dealt: Path) -> None:
    chosen = np.array([74, 0, 19, 18, 40, 19])
    (batch,) = EvaluationLoader(dealt, 6, 32, cpus=1, device=CPU, images=chosen)
    assert batch.indices.tolist() == chosen.tolist()
    expected = images_of(dealt)
    assert [image.contiguous().numpy().tobytes() for image in batch.images] == [expected[int(n)][0] for n in chosen]


@pytest.mark.parametrize("ranks", [2, 3, 4, 6])
def test_ranks_together_see_what_one_sees(dealt: Path, ranks: int) -> None:
    one = list(pretraining(dealt, 24, cpus=2).epoch(1))
    assert len(one) == 3
    loaders = [pretraining(dealt, 24 // ranks, rank=rank, world_size=ranks) for rank in range(ranks)]
    for batch, parts in zip(one, zip(*(loader.epoch(1) for loader in loaders), strict=True), strict=True):
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        for crop, images in enumerate(batch.crops):
            assert torch.equal(torch.cat([part.crops[crop] for part in parts]), images)
    assert [fingerprint(batch) for batch in pretraining(dealt, 24).epoch(1, 2)] == [fingerprint(one[2])]


def test_a_node_stages_what_its_ranks_need(dealt: Path, tmp_path: Path) -> None:
    one = list(pretraining(dealt, 24).epoch(0))
    seen = []
    for rank in range(3):
        needed = partial(training_shards, batch_size=8, rank=rank, world_size=3)
        for place in (str(dealt), dealt.as_uri()):
            there = stage(place, tmp_path / str(rank), needed)
        staged = sorted(path.name for path in there.glob("[0-9]*.beton"))
        # Eight images of a step are of two shards of six.
        assert (
            staged
            == [["00000.beton", "00001.beton"], ["00001.beton", "00002.beton"], ["00002.beton", "00003.beton"]][rank]
        )
        loader = pretraining(there, 8, rank=rank, world_size=3)
        seen.append([batch.indices for batch in loader.epoch(0)])
        with pytest.raises(DataError, match=r"\d{5}\.beton: this shard is missing"):
            pretraining(there, 24)
    for number, batch in enumerate(one):
        assert torch.equal(torch.cat([part[number] for part in seen]), batch.indices)
    # Later ones join.
    there = stage(dealt, tmp_path / "0", partial(evaluation_shards, rank=2, world_size=3))
    assert len(list(there.glob("[0-9]*.beton"))) == 4
    assert read_manifest(there) == read_manifest(dealt)
    assert verify_in_place(stage(dealt, tmp_path / "whole")) == read_manifest(dealt)


def test_its_path_works_where_a_betons_does(dealt: Path) -> None:
    manifest = read_manifest(dealt)
    assert find_manifest(dealt.as_uri()) == find_manifest(f"{dealt}/") == manifest
    assert read_classes(str(dealt)) == read_classes(f"{dealt}.json") == ("cat", "dog", "emu")
    seen = look_at_beton(str(dealt), dealt.parent)
    assert (seen.bytes, seen.sha256, seen.shards) == (manifest.bytes, manifest.sha256, 4)
    assert [seen.bytes_on(nodes) for nodes in (1, 2, 4)] == [
        manifest.bytes,
        -(-manifest.bytes * 3 // 4),
        manifest.bytes // 2,
    ]


def test_a_batch_that_does_not_divide_is_refused(dealt: Path) -> None:
    with pytest.raises(
        DataError, match=r"dealt\.beton: the 6 images of a global batch do not divide among its 4 shards"
    ):
        pretraining(dealt, 6)


def test_shards_that_are_missing_or_others(copy: Path) -> None:
    first, second = copy / "00000.beton", copy / "00001.beton"
    second.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00001\.beton: has .* bytes where its manifest says"):
        pretraining(copy, 8)
    second.unlink()
    with pytest.raises(DataError, match=r"00001\.beton: this shard is missing"):
        pretraining(copy, 8)
    assert len(DataSet(copy).labels(np.arange(19))) == 19
    shutil.copy(manifest_path(first), manifest_path(second))
    shutil.copy(first, second)
    for use in (lambda: stage(copy, copy.parent / "staged"), lambda: pretraining(copy, 8)):
        with pytest.raises(DataError, match=r"00001\.beton: its manifest tells of .* shards were exchanged"):
            use()
    shutil.rmtree(copy)
    with pytest.raises(DataError, match=r"dealt\.beton: no such beton"):
        pretraining(copy, 8)
    copy.write_bytes(b"x")
    with pytest.raises(DataError, match="is one beton where its manifest says a folder of shards"):
        pretraining(copy, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 76}, "do not add up"),
        ({"sha256": "0" * 64}, "is not that of the shards' checksums"),
        ({"name": "../secret.beton"}, r"shards\.0\.name"),
        ({"count": 21}, "hold 17 to 21 images, expected as many in each"),
    ],
)
def test_manifests_that_cannot_be_true(copy: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(manifest_path(copy).read_text())
    shards = content["shards"]
    if "name" in change:
        shards[0] |= change
    elif "count" in change:
        shards[0]["samples"], shards[1]["samples"] = change["count"], 17
    else:
        content |= change
    manifest_path(copy).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_manifest(copy)


def test_an_output_is_replaced_whole_or_not_at_all(copy: Path, whole: Path) -> None:
    tree = whole.with_name("tree")
    with pytest.raises(DataError, match=r"dealt\.beton: exists already; pass --overwrite"):
        prepare(settings(tree, copy, shards=2))
    before = read_manifest(copy)
    with pytest.raises(DataError, match=r"shards: 76 for 75 images, of which each needs one"):
        prepare(settings(tree, copy, shards=76, overwrite=True))
    assert verify_in_place(copy) == before
    for shards in (2, 1, 3):
        manifest = prepare(settings(tree, copy, shards=shards, overwrite=True))
        assert verify_in_place(copy) == manifest == read_manifest(copy)
        assert len(manifest.shards) == (shards if shards > 1 else 0)
        left = {path.name for path in copy.parent.iterdir()}
        assert left == {"dealt.beton", "dealt.beton.json", ".dealt.beton.lock"}


def test_a_folder_that_is_no_data_set_is_never_replaced(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "x.beton").mkdir()
    (tmp_path / "x.beton" / "precious").touch()
    (tmp_path / "x.beton.json").write_text("{}")
    with pytest.raises(DataError, match=r"x\.beton: is a folder"):
        prepare(settings(whole.with_name("tree"), tmp_path / "x.beton", shards=2, overwrite=True))
    assert (tmp_path / "x.beton" / "precious").exists()


def test_shards_are_even_where_images_are_skipped(tmp_path: Path) -> None:
    tree = image_tree(tmp_path / "tree", per_class=4)
    for name in ("cat/1.png", "cat/2.png", "dog/3.png"):
        (tree / name).write_bytes(b"no image")
    manifest = prepare(settings(tree, tmp_path / "x.beton", shards=4, skip_unreadable=True))
    assert [shard.samples for shard in manifest.shards] == [3, 2, 2, 2]
    assert len(manifest.skipped) == 3
    assert len(images_of(tmp_path / "x.beton")) == 9
