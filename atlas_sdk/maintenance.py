"""The names of the jobs of `atlas.maintenance`, and the objects that report on jobs and runs."""

from atlas_sdk.model.maintenance import MAINTENANCE_JOBS, JobReport, MaintenanceProgress, MaintenanceRun

__all__ = ["MAINTENANCE_JOBS", "JobReport", "MaintenanceProgress", "MaintenanceRun"]
