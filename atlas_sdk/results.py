"""Objects that operations return and that programs rarely name. Import them from here for annotations.

::

    from atlas_sdk.results import PoolStats, QuotaAudit

The objects that programs pass around are in `atlas_sdk` itself. The objects of maintenance, files and guards are in
`atlas_sdk.maintenance`, `atlas_sdk.files` and `atlas_sdk.guards`.
"""

from atlas_sdk.model.builds import BuildStats
from atlas_sdk.model.checkpoints import RestoreChange, RestoreStep
from atlas_sdk.model.delivery import Delivery
from atlas_sdk.model.memory import BrokenVersion, VersionSet
from atlas_sdk.model.memory_usage import MemoryUsage
from atlas_sdk.model.pool import PoolStats
from atlas_sdk.model.projects import MovedProject, ProjectPurge
from atlas_sdk.model.quota_accounting import Forecast, LimitCheck, QuotaAccounting, QuotaAudit, QuotaPeriod
from atlas_sdk.model.quotas import QuotaBlock, Refund, RequestRate
from atlas_sdk.model.schema import AppliedMigration, ServerFacts
from atlas_sdk.model.summaries import ProjectHealth
from atlas_sdk.model.usage import UsageTotal
from atlas_sdk.model.users import UserDeletion

__all__ = [
    "AppliedMigration",
    "BrokenVersion",
    "BuildStats",
    "Delivery",
    "Forecast",
    "LimitCheck",
    "MemoryUsage",
    "MovedProject",
    "PoolStats",
    "ProjectHealth",
    "ProjectPurge",
    "QuotaAccounting",
    "QuotaAudit",
    "QuotaBlock",
    "QuotaPeriod",
    "Refund",
    "RequestRate",
    "RestoreChange",
    "RestoreStep",
    "ServerFacts",
    "UsageTotal",
    "UserDeletion",
    "VersionSet",
]
