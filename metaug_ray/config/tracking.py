"""MLflow."""

from pydantic import Field

from metaug_ray.config.base import Location, Settings


class TrackingSettings(Settings):
    """MLflow."""

    uri: Location = "sqlite:///~/metaug_ray/mlflow.db"
    """address of MLflow: a server (http://host:5000), or a database file of this machine"""
    experiment: str = Field("metaug", min_length=1)
    """MLflow experiment"""
