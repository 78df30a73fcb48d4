"""The names of `atlas.maintenance`: its jobs, their options, reports and progress."""

from atlas_sdk._maintaining import MaintenanceOptions, RetentionOptions
from atlas_sdk.model.maintenance import MAINTENANCE_JOBS, JobReport, MaintenanceProgress, MaintenanceRun

__all__ = [
    "MAINTENANCE_JOBS",
    "JobReport",
    "MaintenanceOptions",
    "MaintenanceProgress",
    "MaintenanceRun",
    "RetentionOptions",
]
