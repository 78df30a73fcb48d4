"""The topics of both clients: each a namespace of operations, blocking and awaited."""

from atlas_sdk import _operations as of
from atlas_sdk._namespaces import AsyncNamespace, AsyncRunner, Namespace, Runner, method
from atlas_sdk.guards.methods import AsyncGuardMethods, GuardMethods
from atlas_sdk.ops import notifications

__all__ = [
    "AsyncBuilds",
    "AsyncEvents",
    "AsyncMaintenance",
    "AsyncMemory",
    "AsyncPreviews",
    "AsyncProjects",
    "AsyncQuotas",
    "AsyncSchema",
    "AsyncSessions",
    "AsyncTopics",
    "AsyncTransaction",
    "AsyncTransactionMemory",
    "AsyncUsageLedger",
    "AsyncUsers",
    "Builds",
    "Events",
    "Maintenance",
    "Memory",
    "Previews",
    "Projects",
    "Quotas",
    "Schema",
    "Sessions",
    "Topics",
    "Transaction",
    "TransactionMemory",
    "UsageLedger",
    "Users",
]


class Users(of.UserOperations, Namespace): ...


class AsyncUsers(of.UserOperations, AsyncNamespace): ...


class Sessions(of.SessionOperations, Namespace): ...


class AsyncSessions(of.SessionOperations, AsyncNamespace): ...


class Projects(of.ProjectOperations, Namespace): ...


class AsyncProjects(of.ProjectOperations, AsyncNamespace): ...


class TransactionMemory(of.MemoryOperations, Namespace): ...


class AsyncTransactionMemory(of.MemoryOperations, AsyncNamespace): ...


class Memory(of.RestoreOperations, TransactionMemory): ...


class AsyncMemory(of.RestoreOperations, AsyncTransactionMemory): ...


class Quotas(of.QuotaOperations, GuardMethods): ...


class AsyncQuotas(of.QuotaOperations, AsyncGuardMethods): ...


class Builds(of.BuildOperations, Namespace): ...


class AsyncBuilds(of.BuildOperations, AsyncNamespace): ...


class Previews(of.PreviewOperations, Namespace): ...


class AsyncPreviews(of.PreviewOperations, AsyncNamespace): ...


class UsageLedger(of.UsageOperations, Namespace): ...


class AsyncUsageLedger(of.UsageOperations, AsyncNamespace): ...


class Events(of.EventOperations, Namespace): ...


class AsyncEvents(of.EventOperations, AsyncNamespace): ...


class Maintenance(of.MaintenanceOperations, Namespace): ...


class AsyncMaintenance(of.MaintenanceOperations, AsyncNamespace): ...


class Schema(of.SchemaOperations, Namespace): ...


class AsyncSchema(of.SchemaOperations, AsyncNamespace): ...


class Topics(Namespace):
    """The topics of a client or of an open transaction."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.users = Users(runner)
        self.sessions = Sessions(runner)
        self.projects = Projects(runner)
        self.builds = Builds(runner)
        self.previews = Previews(runner)
        self.usage = UsageLedger(runner)
        self.events = Events(runner)
        self.schema = Schema(runner)

    notify = method(notifications.notify)


class Transaction(Topics):
    """The topics of a client, all in one open transaction. Operations of several threads or tasks take turns.

    An operation that fails leaves the transaction as it was before the operation.
    """

    def __init__(self, runner: Runner) -> None:
        """Use `Atlas.transaction`."""
        super().__init__(runner)
        self.memory = TransactionMemory(runner)


class AsyncTopics(AsyncNamespace):
    """The topics of a client or of an open transaction."""

    def __init__(self, runner: AsyncRunner) -> None:
        super().__init__(runner)
        self.users = AsyncUsers(runner)
        self.sessions = AsyncSessions(runner)
        self.projects = AsyncProjects(runner)
        self.builds = AsyncBuilds(runner)
        self.previews = AsyncPreviews(runner)
        self.usage = AsyncUsageLedger(runner)
        self.events = AsyncEvents(runner)
        self.schema = AsyncSchema(runner)

    notify = method(notifications.notify)


class AsyncTransaction(AsyncTopics):
    """The topics of a client, all in one open transaction. Operations of several threads or tasks take turns.

    An operation that fails leaves the transaction as it was before the operation.
    """

    def __init__(self, runner: AsyncRunner) -> None:
        """Use `AsyncAtlas.transaction`."""
        super().__init__(runner)
        self.memory = AsyncTransactionMemory(runner)
