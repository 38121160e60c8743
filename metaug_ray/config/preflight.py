"""Settings of `jobs/check_cluster.py`: a cluster, looked at before a long run."""

from pydantic import Field

from metaug_ray.config.base import Location, NotNegative, Positive, Settings
from metaug_ray.config.pretrain import ComputeSettings
from metaug_ray.config.storage import StorageSettings
from metaug_ray.config.tracking import TrackingSettings


class CheckSettings(Settings):
    """What is expected of the cluster."""

    nodes: int = Field(1, ge=1)
    """least number of nodes that there should be"""
    timeout: Positive = 120.0
    """seconds that a node has to answer each check; one that does not is a fault"""
    megabytes: int = Field(64, ge=1, le=65536)
    """size in MB of what is written, read and reduced to measure rates"""
    least_storage: NotNegative = 10.0
    """least rate in MB/s of writing to and reading from storage, for each node"""
    least_disk: NotNegative = 50.0
    """least rate in MB/s of writing to and reading from compute.staging"""
    least_all_reduce: NotNegative = 50.0
    """least bandwidth in MB/s of the all-reduce by which workers average gradients"""
    clock_skew: Positive = 2.0
    """greatest difference in seconds between the clocks of a node and of the driver"""


class PreflightSettings(StorageSettings):
    """What a run will use of a cluster, and what is expected of that."""

    betons: tuple[Location, ...] = ()
    """paths or URIs of the betons that the run reads"""
    compute: ComputeSettings = ComputeSettings()
    """machines"""
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    """MLflow"""
    check: CheckSettings = CheckSettings()
    """what is expected"""
