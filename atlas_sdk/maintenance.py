"""The names of `atlas.maintenance`: its jobs, reports and progress."""

from atlas_sdk.model.maintenance import MAINTENANCE_JOBS, JobReport, MaintenanceProgress, MaintenanceRun

__all__ = ["MAINTENANCE_JOBS", "JobReport", "MaintenanceProgress", "MaintenanceRun"]
