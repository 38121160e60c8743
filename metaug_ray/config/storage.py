"""Where runs lie."""

from metaug_ray.config.base import Location, Settings


class StorageSettings(Settings):
    """Where runs lie."""

    storage: Location = "~/metaug_ray/runs"
    """folder or URI (s3://...) of all runs; with several nodes one that all of them reach"""
