"""MLflow."""

import os
from typing import Final

from pydantic import Field

from metaug_ray.config.base import Location, Settings

VARIABLE: Final = "MLFLOW_TRACKING_URI"
"""The variable by which MLflow itself is told its address."""


def default_uri() -> str:
    """What MLflow's own variable says, else a database file in the home folder."""
    return os.environ.get(VARIABLE) or "sqlite:///~/metaug_ray/mlflow.db"


class TrackingSettings(Settings):
    """MLflow."""

    uri: Location = Field(default_factory=default_uri)
    """address of MLflow: a server (http://host:5000), or a database file of this machine; default MLFLOW_TRACKING_URI,
    else sqlite:///~/metaug_ray/mlflow.db"""
    experiment: str = Field("metaug", min_length=1)
    """MLflow experiment"""
