from pathlib import Path

import pytest
import torch

from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.evaluation.readout import AUGMENTED, REPRESENTATIONS, Readout
from metaug_ray.method.views import split_views
from metaug_ray.runtime.networks import build_networks
from metaug_ray.runtime.run_folder import RunFolder
from tests.evaluation.finished import FinishedRun, finish_run

IMAGES = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(shapes_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finish_run(shapes_beton, tmp_path_factory.mktemp("runs"))


def test_a_runs_encoder_gives_the_trainers_representations(run: FinishedRun) -> None:
    source = find_encoder("run:small", run.storage, run.uri)
    trainer = run.state.metaug.model.eager_encoder.eval()
    with torch.inference_mode():
        expected = torch.cat([*trainer(split_views(IMAGES, ("l", "ab"))).representations], 1)
        # The trainer's weights lie in another memory format, which rounds otherwise.
        torch.testing.assert_close(source.encoder(IMAGES), expected, rtol=1e-4, atol=1e-5)
    description = source.description
    assert (description.variant, description.step, description.epochs) == ("MetAug", 12, 2.0)
    assert description.run_id == run.run_id
    assert not any(parameter.requires_grad for parameter in source.encoder.parameters())
    assert not source.encoder.train().training


def test_random_init_is_what_the_run_began_with(run: FinishedRun) -> None:
    source = find_encoder("random:small", run.storage, run.uri)
    networks, _ = build_networks(run.settings)
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(tensor, networks.state_dict()[name]), name
    assert (source.description.variant, source.description.step) == ("random init", 0)
    assert Readout(source).checksum != Readout(find_encoder("run:small", run.storage, run.uri)).checksum


def test_the_best_checkpoint_is_found_aside(run: FinishedRun) -> None:
    measured = {"rankme/mean": 20.5, "knn/accuracy": 0.5, "loss/total": 0.1}
    RunFolder(run.storage, "small").keep_best("checkpoint_000000012", 12, measured, "rankme/mean")
    best = find_encoder("run:small@best", run.storage, run.uri)
    assert best.description.checkpoint.endswith("small/best/checkpoint_000000012")
    assert best.online == {"online_knn/top1": 0.5, "online_rankme/mean": 20.5}


def test_parts_of_the_networks(run: FinishedRun) -> None:
    """Against the same networks, called one after the other."""
    source = find_encoder("run:small", run.storage, run.uri)
    parts = Readout(source, layers=True, augmented=True)(IMAGES)
    model = run.state.metaug.model
    encoder = model.eager_encoder.eval()
    views = split_views(IMAGES, ("l", "ab"))
    representations, features, _ = encoder(views)
    torch.testing.assert_close(parts[REPRESENTATIONS], representations.transpose(0, 1), rtol=1e-4, atol=1e-5)
    assert model.generators is not None
    augmented = torch.cat([features, model.generators.eval()(features)], 2).transpose(0, 1)
    torch.testing.assert_close(parts[AUGMENTED], augmented, rtol=1e-4, atol=1e-5)
    f = encoder.encoders["ab"]
    maps = f.layer1(f.maxpool(f.relu(f.bn1(f.conv1(views[1])))))
    torch.testing.assert_close(parts["layer1"][:, 1], maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    # A ResNet's representation is its last stage, averaged.
    torch.testing.assert_close(parts["layer4"], parts[REPRESENTATIONS])
    assert list(parts) == ["layer1", "layer2", "layer3", "layer4", REPRESENTATIONS, AUGMENTED]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("run:other", r"there is no run 'other'"),
        ("run:small@checkpoint_000000005", r"has no checkpoint 'checkpoint_000000005'; it has checkpoint_000000012"),
    ],
)
def test_what_is_not_there_is_named(run: FinishedRun, reference: str, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        find_encoder(reference, run.storage, run.uri)


def test_augmented_features_need_generators(shapes_beton: Path, tmp_path: Path) -> None:
    run = finish_run(shapes_beton, tmp_path, method={"generators": False})
    source = find_encoder("run:small", run.storage, run.uri)
    assert source.description.variant == "only OUCL"
    with pytest.raises(ValueError, match=r"has no generators"):
        Readout(source, augmented=True)


def test_augmented_features_of_a_shared_encoder_are_those_of_its_first_view(shapes_beton: Path, tmp_path: Path) -> None:
    run = finish_run(
        shapes_beton,
        tmp_path,
        model={"views": ("rgb", "rgb.2"), "encoder": "conv", "small_images": True, "head": {"layers": 2}},
        method={"targets": "neighbours", "generator_per": "view"},
        bank={"negatives": 4096},
        training={"epochs": 1},
    )
    source = find_encoder("run:small", run.storage, run.uri)
    parts = Readout(source, augmented=True)(IMAGES)
    model = run.state.metaug.model
    assert model.generators is not None
    assert parts[REPRESENTATIONS].shape == (len(IMAGES), 1, model.eager_encoder.representation_size)
    features, _ = model.eager_encoder.heads.eval()["rgb"].compared(parts[REPRESENTATIONS][:, 0])
    expected = torch.cat([features, model.generators.eval()(features.expand(2, -1, -1))[0]], 1)
    torch.testing.assert_close(parts[AUGMENTED][:, 0], expected, rtol=1e-4, atol=1e-5)
