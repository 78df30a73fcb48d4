"""The topics of an asyncio client: the same names, awaited."""

from atlas_sdk._maintaining import AsyncMaintaining
from atlas_sdk._namespaces import AsyncNamespace, AsyncRunner, async_method
from atlas_sdk.guards.methods import AsyncGuardMethods
from atlas_sdk.ops import (
    auth,
    builds,
    checkpoints,
    diffs,
    events,
    leftovers,
    limits,
    maintenance,
    memory,
    memory_usage,
    notifications,
    previews,
    projects,
    purges,
    quota_accounting,
    quotas,
    references,
    refunds,
    restore_plans,
    restores,
    retention,
    schema,
    sessions,
    summaries,
    usage,
    users,
    verify,
)

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
]


class AsyncUsers(AsyncNamespace):
    """Users: the tenants."""

    create = async_method(users.create)
    get = async_method(users.get)
    by_email = async_method(users.by_email)
    local = async_method(users.local_user)
    find_local = async_method(users.find_local)
    list = async_method(users.list_all)
    set_plan = async_method(users.set_plan)
    verify_email = async_method(users.verify_email)
    update = async_method(users.update)
    delete = async_method(users.delete)
    authenticate = async_method(auth.authenticate)
    set_password = async_method(auth.set_password)
    usage_summary = async_method(summaries.usage_summary)


class AsyncSessions(AsyncNamespace):
    """Sign-in sessions: tokens that are valid until they expire or are revoked."""

    issue = async_method(sessions.issue)
    verify = async_method(sessions.verify)
    touch = async_method(sessions.touch)
    revoke = async_method(sessions.revoke)
    revoke_all = async_method(sessions.revoke_all)
    list = async_method(sessions.list_active)
    purge_expired = async_method(sessions.purge_expired)


class AsyncProjects(AsyncNamespace):
    """Projects: the folders whose memory files are kept."""

    create = async_method(projects.create)
    get = async_method(projects.get)
    by_path = async_method(projects.by_path)
    by_session = async_method(projects.by_session)
    at = async_method(projects.at)
    archive = async_method(projects.archive)
    activate = async_method(projects.activate)
    set_status = async_method(projects.set_status)
    delete = async_method(projects.delete)
    purge = async_method(projects.purge)
    touch = async_method(projects.touch)
    update_memory = async_method(projects.update_memory)
    list = async_method(projects.list_of)
    health = async_method(summaries.health)


class AsyncTransactionMemory(AsyncNamespace):
    """Every version of every memory file: the operations that may be part of a transaction."""

    snapshot = async_method(memory.snapshot)
    capture = async_method(memory.capture)
    delete = async_method(memory.delete)
    files = async_method(memory.files)
    history = async_method(memory.history)
    resolve = async_method(references.resolve)
    version = async_method(references.version)
    read = async_method(references.read)
    content = async_method(references.content)
    diff = async_method(diffs.diff)
    checkpoint = async_method(checkpoints.checkpoint)
    checkpoints = async_method(checkpoints.checkpoints)
    plan_restore = async_method(restore_plans.plan_restore)
    plan_undo = async_method(restore_plans.plan_undo)
    plan_redo = async_method(restore_plans.plan_redo)
    verify = async_method(verify.verify)


class AsyncMemory(AsyncTransactionMemory):
    """Every version of every memory file: append, read, compare, name, restore.

    A restore cannot be part of a transaction: files cannot be rolled back, so their old content must stay on record.
    """

    restore = async_method(restores.restore)
    undo = async_method(restores.undo)
    redo = async_method(restores.redo)
    remove_leftovers = async_method(leftovers.remove_leftovers)


class AsyncQuotas(AsyncGuardMethods):
    """Limits of users: reserve an amount before a call, settle the usage after the call.

    Quotas cannot be part of a transaction, which would lock the user's limits as long as the call lasts.
    """

    reserve = async_method(quotas.reserve)
    settle = async_method(quotas.settle)
    release = async_method(quotas.release)
    extend = async_method(quotas.extend)
    progress = async_method(quotas.progress)
    add_tokens = async_method(quotas.add_tokens)
    refund = async_method(refunds.refund)
    lease_block = async_method(quotas.lease_block)
    hit = async_method(quotas.hit)
    usage = async_method(quota_accounting.usage)
    get = async_method(quota_accounting.usage)
    check = async_method(quota_accounting.check)
    reservations = async_method(quota_accounting.reservations)
    history = async_method(quota_accounting.history)
    forecast = async_method(quota_accounting.forecast)
    verify = async_method(quota_accounting.verify)
    reset_monthly = async_method(quota_accounting.reset_monthly)
    set_limits = async_method(limits.set_limits)
    use_plan_limits = async_method(limits.use_plan_limits)
    set_time_zone = async_method(limits.set_time_zone)
    plans = async_method(limits.plans)
    plan_limits = async_method(limits.plan_limits)
    add_plan = async_method(limits.add_plan)
    set_plan_limits = async_method(limits.set_plan_limits)
    grant = async_method(limits.grant)
    grants = async_method(limits.grants)
    memory = async_method(memory_usage.memory)
    record_memory_threshold = async_method(memory_usage.record_memory_threshold)


class AsyncBuilds(AsyncNamespace):
    """Builds: queued, running, succeeded or failed, and their logs."""

    create = async_method(builds.create)
    start = async_method(builds.start)
    succeed = async_method(builds.succeed)
    fail = async_method(builds.fail)
    append_log = async_method(builds.append_log)
    log = async_method(builds.log)
    get = async_method(builds.get)
    list = async_method(builds.list_of)
    stats = async_method(builds.stats)


class AsyncPreviews(AsyncNamespace):
    """Previews: containers that serve a project at a host."""

    create = async_method(previews.create)
    set_status = async_method(previews.set_status)
    stop = async_method(previews.stop)
    touch = async_method(previews.touch)
    put_to_sleep_idle = async_method(previews.put_to_sleep_idle)
    allocate_port = async_method(previews.allocate_port)
    release_port = async_method(previews.release_port)
    active = async_method(previews.active)
    by_host = async_method(previews.by_host)
    get = async_method(previews.get)
    list = async_method(previews.list_of)


class AsyncUsageLedger(AsyncNamespace):
    """The ledger of usage: entries beside the quotas, and sums over all entries."""

    log = async_method(usage.log)
    totals = async_method(usage.totals)


class AsyncEvents(AsyncNamespace):
    """The audit trail."""

    log = async_method(events.log)
    recent = async_method(events.recent)
    search = async_method(events.search)


class AsyncMaintenance(AsyncMaintaining):
    """Maintenance of the database for all users: single jobs, and all of them.

    Maintenance cannot be part of a transaction: each job commits batch by batch.
    """

    runs = async_method(maintenance.runs)
    close_periods = async_method(purges.close_periods)
    reclaim_reservations = async_method(purges.reclaim_reservations)
    purge_sessions = async_method(purges.purge_sessions)
    purge_previews = async_method(purges.purge_previews)
    purge_claims = async_method(purges.purge_claims)
    purge_events = async_method(purges.purge_events)
    prune_snapshots = async_method(retention.prune_snapshots)
    collect_contents = async_method(retention.collect_contents)


class AsyncSchema(AsyncNamespace):
    """The schema and its migrations."""

    status = async_method(schema.status)
    check = async_method(schema.check)
    migrate = async_method(schema.migrate)
    server = async_method(schema.server)


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

    notify = async_method(notifications.notify)


class AsyncTransaction(AsyncTopics):
    """The topics of a client, all in one open transaction. Operations of several threads or tasks take turns.

    An operation that fails leaves the transaction as it was before the operation.
    """

    def __init__(self, runner: AsyncRunner) -> None:
        """Use `AsyncAtlas.transaction`."""
        super().__init__(runner)
        self.memory = AsyncTransactionMemory(runner)
