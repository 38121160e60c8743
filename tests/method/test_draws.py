import torch

from metaug_ray.method.draws import generator


def drawn(*key: object) -> torch.Tensor:
    return torch.rand(4, generator=generator(*key))  # type: ignore[arg-type]


def test_draws_depend_on_every_part_of_their_purpose_and_nothing_else() -> None:
    first = drawn("draw", "regular", 0, 1)
    torch.rand(3)
    assert torch.equal(drawn("draw", "regular", 0, 1), first)
    others = (("rows", "regular", 0, 1), ("draw", "meta", 0, 1), ("draw", "regular", 1, 1), ("draw", "regular", 0, 2))
    for key in others:
        assert not torch.equal(drawn(*key), first)


def test_a_seed_means_the_same_in_every_version() -> None:
    assert generator("draw", "regular", 3, 7).initial_seed() == 6_344_487_932_405_948_195
