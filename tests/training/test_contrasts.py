import pytest

from metaug_ray.training import contrasts


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"triplet": frozenset({"margin"})},
            "'triplet': its function in .* margin, and it has no field in the class Con",
        ),
        (
            {"nce": frozenset({"temperature", "noise"})},
            "'nce': its function .* noise, temperature, and its field .* the",
        ),
        (
            {"nce": None},
            "'nce': it has no function in metaug_ray/method/contrast/build.py, and its field .* temperature",
        ),
    ],
)
def test_a_contrast_without_its_settings_or_function_is_named(
    functions: dict[str, frozenset[str] | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: contrasts.contrast_parameters(name) for name in contrasts.contrast_names()} | functions
    known = {name: keywords for name, keywords in known.items() if keywords is not None}
    monkeypatch.setattr(contrasts, "contrast_names", lambda: tuple(known))
    monkeypatch.setattr(contrasts, "contrast_parameters", known.__getitem__)
    with pytest.raises(TypeError, match=message):
        contrasts._check_contrasts()
