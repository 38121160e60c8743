"""What a plan assumes, and where each value is from."""

from dataclasses import dataclass
from typing import Any, Final

from metaug_ray.capacity.lines import Known
from metaug_ray.capacity.worker import MEASURED_ON, is_measured

_ASSUMED: Final = "assumed"
_DATA_SHEET: Final = "assumed, two thirds of an H100's data sheet"
_HOST: Final = "measured on one CPU thread (tests/benchmarks/host_costs.py)"
_FROM: Final = {
    "gpu_memory": "an H200's",
    "gpus_per_node": _ASSUMED,
    "node_memory": _ASSUMED,
    "node_disk": _ASSUMED,
    "local_bandwidth": _DATA_SHEET,
    "node_bandwidth": "assumed, 400 Gbit/s",
    "latency": _ASSUMED,
    "overlap": "assumed: none, the worst case",
    "disk_rate": _ASSUMED,
    "storage_rate": _ASSUMED,
    "price": _ASSUMED,
    "efficiency": _ASSUMED,
}
_UNITS: Final = {
    "gpu_memory": "GiB",
    "node_memory": "GiB",
    "node_disk": "GB",
    "local_bandwidth": "GB/s",
    "node_bandwidth": "GB/s",
    "latency": "us",
    "disk_rate": "GB/s",
    "storage_rate": "GB/s",
    "price": "an hour",
}


@dataclass(frozen=True)
class Assumption:
    """One value.

    Attributes:
        option: that replaces it.
        value: in words.
        source: where it is from.
    """

    option: str
    value: str
    source: str


def assumptions_of(known: Known) -> list[Assumption]:
    """All that the plan assumes, in the order of the settings."""
    plan, data, cores = known.settings.plan, known.data, known.cores
    given = plan.model_fields_set
    measured = "given" if plan.step_seconds else MEASURED_ON
    if not plan.step_seconds:
        measured += f"; below {known.worker.least} images as long as there"
    computed = {
        "images": (f"{data.images:,}", data.images_from),
        "shards": (f"{data.shards:,}", data.shards_from),
        "images_per_worker": _batch(known),
        "step_seconds": (", ".join(f"{k}: {v:.3g} s" for k, v in sorted(known.worker.seconds.items())), measured),
        "peak_memory": _memory(known),
        "cores_per_gpu": (str(cores.count), _cores_from(known)),
        "images_per_core": (f"{cores.rate:,.0f}", cores.rate_from),
        "bytes_per_image": (f"{data.bytes_per_image:,.0f}", data.bytes_from),
    }
    found = []
    for name in type(plan).model_fields:
        if name in computed:
            found.append(Assumption(_option(name), *computed[name]))
        elif name in _FROM:
            value = f"{getattr(plan, name):,g} {_UNITS.get(name, '')}".strip()
            found.append(Assumption(_option(name), value, "given" if name in given else _FROM[name]))
    for name in type(plan.host).model_fields:
        source = "given" if name in plan.host.model_fields_set else _HOST
        if name == "process_memory" and source != "given":
            source = _ASSUMED
        found.append(Assumption(_option(f"host.{name}"), _plain(getattr(plan.host, name)), source))
    return found


def _batch(known: Known) -> tuple[str, str]:
    each = known.settings.plan.images_per_worker
    if each is None:
        return "none", f"all share training.batch_size ({known.settings.run.training.batch_size:,})"
    return str(each), "given"


def _memory(known: Known) -> tuple[str, str]:
    points = known.worker.memory
    if points == known.settings.plan.peak_memory:
        source = "given"
    else:
        source = MEASURED_ON if is_measured(known.settings.run) else "estimated from the networks' tensors"
    return ", ".join(f"{images}: {gib:.1f} GiB" for images, gib in sorted(points.items())), source


def _cores_from(known: Known) -> str:
    plan, compute = known.settings.plan, known.settings.run.compute
    return "given" if plan.cores_per_gpu else "compute.cpus_per_worker" if compute.cpus_per_worker else _ASSUMED


def _option(name: str) -> str:
    return f"--plan.{name.replace('_', '-')}"


def _plain(value: Any) -> str:
    return f"{value:,g}"
