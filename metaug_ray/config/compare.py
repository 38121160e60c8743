"""Settings of `jobs/compare_runs.py`: evaluated runs, compared."""

from pathlib import Path

from pydantic import Field

from metaug_ray.config.base import LocalPath, Settings
from metaug_ray.config.tracking import TrackingSettings


class CompareSettings(Settings):
    """A table and figures across evaluated runs."""

    metrics: tuple[str, ...] = Field(("knn/top1", "linear/top1", "linear_10pct/top1"), min_length=1)
    """metrics that are compared, by the names that evaluations give them"""
    output: LocalPath = Path("comparison")
    """folder for comparison.md, comparison.csv and a figure for each data set"""
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    """MLflow"""
