"""Where and on what a job runs."""

from typing import Literal

from pydantic import Field

from metaug_ray.config.base import LocalPath, Settings


class MachineSettings(Settings):
    """Where and on what a job runs."""

    address: str | None = Field(None, min_length=1)
    """address of the Ray cluster; default RAY_ADDRESS (set in a submitted job), else the cluster that this machine is
    part of, else a new one for this job alone"""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """kind of device; auto: GPUs if the cluster has any"""
    workers: int | None = Field(None, ge=1, le=4096)
    """number of workers; default one for each GPU of the cluster, or one for each node without GPUs"""
    cpus_per_worker: int | None = Field(None, ge=1, le=1024)
    """CPUs that decode images for a worker, and compute where there is no GPU; default an equal share of a node's"""
    staging: LocalPath | None = None
    """folder on each node's own disk to which betons are copied once; default: read where they lie (a URI needs it)"""

    def check_readable(self, *betons: str | None) -> None:
        """Refuse URIs that no worker could read.

        Raises:
            ValueError: with what to set.
        """
        for beton in betons:
            if beton is not None and "://" in beton and self.staging is None:
                raise ValueError(f"compute.staging: {beton} is not a local file, so say where nodes may copy it")
