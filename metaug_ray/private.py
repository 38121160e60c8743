"""Private names of libraries, all in one place: what an upgrade of them may break.

Everything is imported where it is used, so that whoever needs one of these does not pay for the others.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


def last_ray_address() -> str | None:
    """Address of the cluster that `ray start` made this machine part of, as `ray.init` looks for it."""
    from ray._private.utils import read_ray_address

    address: str | None = read_ray_address()
    return address


def export_for_any_size() -> AbstractContextManager[None]:
    """The context in which `torch.export` leaves sizes open that are 1 in its example.

    Otherwise a graph is bound to images whose maps are 1x1 where the example's are, and nowhere else.
    """
    from torch.fx.experimental import _config

    patch: AbstractContextManager[None] = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patch


@contextmanager
def without_keys_in_trials() -> Iterator[None]:
    """Let Ray Tune's processes have AWS's keys from the nodes that they are on, as all workers do.

    Tune would hand the driver's own to them by their runtime environment, which Ray logs and its dashboard shows.
    """
    from ray.tune.execution import class_cache

    handed = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in handed if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = handed


def map_nested(change: Callable[[Any], Any], nested: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, lists and tuples with all their leaves changed."""
    from torch.utils._pytree import tree_map

    changed: dict[str, Any] = tree_map(change, nested)
    return changed
