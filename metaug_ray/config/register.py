"""Settings of `jobs/register_encoder.py`: one frozen encoder, published."""

from typing import Self

from pydantic import Field, model_validator

from metaug_ray.config.base import RUN_NAME
from metaug_ray.config.references import EncoderReference
from metaug_ray.config.storage import StorageSettings
from metaug_ray.config.tracking import TrackingSettings


class RegisterSettings(StorageSettings):
    """Publishing one frozen encoder in MLflow's registry."""

    encoder: EncoderReference
    """run:NAME (its last checkpoint; run:NAME@best, run:NAME@checkpoint_000000640)"""
    name: str = Field(pattern=f"^{RUN_NAME}$")
    """name of the registered model; a new version of it is made"""
    promote: str | None = Field(None, min_length=1)
    """metric by which the version becomes the champion, if it beats the present one: knn/top1, linear/top1, ...;
    without labels online_rankme/mean"""
    force: bool = False
    """make it the champion whatever the metric says"""
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    """MLflow"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.encoder.startswith("run:"):
            raise ValueError(f"encoder: only a run's can be registered (got {self.encoder!r}); expected run:NAME")
        if self.force and self.promote is None:
            raise ValueError("force: says that promote may overrule the comparison; set promote too")
        if self.promote is not None and self.promote.endswith("_interval"):
            raise ValueError(
                f"promote: {self.promote} is the width of an interval, not an accuracy; leave off _interval"
            )
        return self
