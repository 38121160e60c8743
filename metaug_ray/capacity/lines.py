"""What a run takes on one number of GPUs."""

from dataclasses import dataclass
from typing import Final, Literal

from metaug_ray.capacity.data_set import DataSet
from metaug_ray.capacity.links import Links
from metaug_ray.capacity.loading import Cores, cores_of, loaded_per_image
from metaug_ray.capacity.sizes import Sizes
from metaug_ray.capacity.traffic import mean_collectives, own_rows, sent_in_a_step
from metaug_ray.capacity.worker import Worker
from metaug_ray.config.plan import CapacitySettings
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.training.capacity import bank_bytes

GIB: Final = 2.0**30
GB: Final = 1e9


@dataclass(frozen=True)
class Line:
    """A run on so many GPUs, one worker on each.

    Attributes:
        gpus: how many.
        batch: images of a step over all of them.
        images: of each worker.
        step: seconds of a mean step: computing, and what is waited for besides.
        network: seconds of it for the network.
        host: seconds of it to find out which worker owns which rows.
        bound: what a step's time is: that of the GPU with network and host, or, where that is more, what cores need to
            decode its images, or what the disk (the shared storage, without staging) needs to read them.
        images_per_second: of all workers.
        hours: of the run.
        cost: of the GPUs in that time.
        gpu_memory: GiB of each GPU, the bank's rows among them.
        bank: GiB of the rows of bank or support set that each worker holds.
        sent: bytes that each worker sends in a step.
        cores: CPU cores that decode as fast as a worker trains.
        node_memory: GiB of a node's main memory, without the beton's pages.
        fits: whether both memories are as large as that.
    """

    gpus: int
    batch: int
    images: int
    step: float
    network: float
    host: float
    bound: Literal["GPU", "cores", "disk"]
    images_per_second: float
    hours: float
    cost: float
    gpu_memory: float
    bank: float
    sent: float
    cores: float
    node_memory: float
    fits: bool


@dataclass(frozen=True)
class Refused:
    """A number of GPUs on which the run would not begin, and what it would say."""

    gpus: int
    reason: str


@dataclass(frozen=True)
class Known:
    """All that a line is computed from."""

    settings: CapacitySettings
    data: DataSet
    sizes: Sizes
    worker: Worker

    @property
    def links(self) -> Links:
        """Between the workers."""
        plan = self.settings.plan
        return Links(
            plan.gpus_per_node, plan.local_bandwidth * GB, plan.node_bandwidth * GB, plan.latency * 1e-6, plan.overlap
        )

    @property
    def cores(self) -> Cores:
        """Of a worker."""
        return cores_of(self.settings)


def line_of(known: Known, gpus: int) -> Line | Refused:
    """The run on so many GPUs."""
    settings, plan = known.settings, known.settings.plan
    run = run_on(settings, gpus)
    try:
        images = run.images_per_worker(gpus)
    except ValueError as error:
        return Refused(gpus, str(error))
    batch = run.training.batch_size
    if batch > known.data.images:
        return Refused(gpus, f"training.batch_size: {batch:,} images, but the data set has {known.data.images:,}")
    found = mean_collectives(run, known.sizes, images)
    network = known.links.seconds(found, gpus)
    host = exchange_seconds(run, settings, images, gpus)
    cores = known.cores
    decoded = images * loaded_per_image(run)
    takes: dict[Literal["GPU", "cores", "disk"], float] = {
        "GPU": known.worker.step(images) + network + host,
        "cores": decoded / (cores.count * cores.rate),
        "disk": _reading_seconds(known, decoded, gpus),
    }
    bound = max(takes, key=lambda part: takes[part])
    step = takes[bound]
    epoch = run.steps_per_epoch(known.data.images) * step
    hours = run.training.epochs * epoch / plan.efficiency / 3600
    bank = bank_bytes(run, known.data.images, gpus) / GIB
    memory = known.worker.step_memory(run, images)
    gpu_memory = memory + bank
    node_memory = min(gpus, plan.gpus_per_node) * worker_memory(known, gpus) / GIB
    return Line(
        gpus=gpus,
        batch=batch,
        images=images,
        step=step,
        network=network,
        host=host,
        bound=bound,
        images_per_second=batch / step,
        hours=hours,
        cost=hours * gpus * plan.price,
        gpu_memory=gpu_memory,
        bank=bank,
        sent=sent_in_a_step(found, gpus),
        cores=decoded / step / cores.rate,
        node_memory=node_memory,
        fits=gpu_memory <= plan.gpu_memory and node_memory <= plan.node_memory,
    )


def run_on(settings: CapacitySettings, gpus: int) -> PretrainSettings:
    """The run with the batch that it has on so many GPUs."""
    each = settings.plan.images_per_worker
    if each is None:
        return settings.run
    training = settings.run.training.model_copy(update={"batch_size": each * gpus})
    return settings.run.model_copy(update={"training": training})


def _reading_seconds(known: Known, images: float, gpus: int) -> float:
    """Seconds of a step to read the images of all workers, where main memory cannot keep the beton: each node from its
    own disk, or, without staging, all from the shared storage."""
    plan, size = known.settings.plan, known.data.bytes_per_image
    if known.data.bytes < plan.node_memory * GIB:
        return 0.0
    if known.settings.run.compute.staging is None:
        return gpus * images * size / (plan.storage_rate * GB)
    return min(gpus, plan.gpus_per_node) * images * size / (plan.disk_rate * GB)


def exchange_seconds(run: PretrainSettings, settings: CapacitySettings, images: int, gpus: int) -> float:
    """Seconds of a step in which a worker looks through the rows that each other one wants
    (:mod:`metaug_ray.method.targets.sharded_rows`)."""
    if gpus == 1 or run.method.targets != "bank":
        return 0.0
    return gpus * own_rows(run, images) * settings.plan.host.exchange_nanoseconds * 1e-9


def worker_memory(known: Known, gpus: int) -> float:
    """Bytes of main memory of one worker: its process, and the copy that a checkpoint is written from."""
    copied = known.sizes.replicated + bank_bytes(known.settings.run, known.data.images, gpus)
    return known.settings.plan.host.process_memory * GIB + copied
