"""The names and the results of the jobs of `atlas.maintenance`, for annotations and checks."""

from atlas_sdk.model.maintenance import MAINTENANCE_JOBS, JobReport, MaintenanceProgress, MaintenanceRun

__all__ = ["MAINTENANCE_JOBS", "JobReport", "MaintenanceProgress", "MaintenanceRun"]
