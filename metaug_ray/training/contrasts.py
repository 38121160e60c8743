"""A contrast by its settings; where settings and functions differ, this import fails."""

import torch.distributed as dist

from metaug_ray.config.contrasts import CONTRASTS
from metaug_ray.config.method import MethodSettings
from metaug_ray.method.contrast import Contrast, build_contrast, contrast_names, contrast_parameters


def make_contrast(settings: MethodSettings, pairs: int, group: dist.ProcessGroup | None = None) -> Contrast:
    """The contrast that the settings name, for P ordered pairs of views."""
    return build_contrast(settings.contrast, pairs, group, **settings.chosen_contrast.model_dump())


def _check_contrasts() -> None:
    """A contrast's settings are its function's keywords."""
    settings = {name: frozenset(type(getattr(MethodSettings(), name)).model_fields) for name in CONTRASTS}
    functions = {name: contrast_parameters(name) for name in contrast_names()}
    for name in settings.keys() | functions.keys():
        if settings.get(name) != functions.get(name):
            function = _described(functions.get(name), "function in metaug_ray/method/contrast/build.py")
            field = _described(settings.get(name), "field in the class Contrasts of metaug_ray/config/contrasts.py")
            raise TypeError(
                f"contrast {name!r}: {function}, and {field}; both must be there, with the same parameters "
                "(docs/extending.md)"
            )


def _described(parameters: frozenset[str] | None, what: str) -> str:
    if parameters is None:
        return f"it has no {what}"
    return f"its {what} has the parameters {', '.join(sorted(parameters)) or 'none'}"


_check_contrasts()
