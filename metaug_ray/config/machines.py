"""Where and on what a job runs."""

from typing import Literal, Self

from pydantic import Field, model_validator

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
    gpus_per_worker: float = Field(1.0, ge=0.01, le=1)
    """share of a GPU that the worker takes, so that several small runs share one; less than 1 needs workers 1"""
    staging: LocalPath | None = None
    """folder on each node's own disk to which betons are copied once; default: read where they lie (a URI needs it)"""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.gpus_per_worker < 1 and self.workers != 1:
            raise ValueError(
                f"gpus_per_worker: got {self.gpus_per_worker:g} with workers {self.workers or 'left open'}; workers of "
                "one run cannot share a GPU, as NCCL refuses it: set workers to 1, or leave gpus_per_worker out"
            )
        return self

    def check_readable(self, *betons: str | None) -> None:
        """Refuse URIs that no worker could read.

        Raises:
            ValueError: with what to set.
        """
        for beton in betons:
            if beton is not None and "://" in beton and self.staging is None:
                raise ValueError(f"compute.staging: {beton} is not a local file, so say where nodes may copy it")
