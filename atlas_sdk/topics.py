"""The topics of a blocking client: each a namespace of operations."""

from atlas_sdk._maintaining import Maintaining
from atlas_sdk._namespaces import Namespace, Runner, sync_method
from atlas_sdk.guards.methods import GuardMethods
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


class Users(Namespace):
    """Users: the tenants."""

    create = sync_method(users.create)
    get = sync_method(users.get)
    by_email = sync_method(users.by_email)
    local = sync_method(users.local_user)
    find_local = sync_method(users.find_local)
    list = sync_method(users.list_all)
    set_plan = sync_method(users.set_plan)
    verify_email = sync_method(users.verify_email)
    update = sync_method(users.update)
    delete = sync_method(users.delete)
    authenticate = sync_method(auth.authenticate)
    set_password = sync_method(auth.set_password)
    usage_summary = sync_method(summaries.usage_summary)


class Sessions(Namespace):
    """Sign-in sessions: tokens that are valid until they expire or are revoked."""

    issue = sync_method(sessions.issue)
    verify = sync_method(sessions.verify)
    touch = sync_method(sessions.touch)
    revoke = sync_method(sessions.revoke)
    revoke_all = sync_method(sessions.revoke_all)
    list = sync_method(sessions.list_active)
    purge_expired = sync_method(sessions.purge_expired)


class Projects(Namespace):
    """Projects: the folders whose memory files are kept."""

    create = sync_method(projects.create)
    get = sync_method(projects.get)
    by_path = sync_method(projects.by_path)
    by_session = sync_method(projects.by_session)
    at = sync_method(projects.at)
    archive = sync_method(projects.archive)
    activate = sync_method(projects.activate)
    set_status = sync_method(projects.set_status)
    delete = sync_method(projects.delete)
    purge = sync_method(projects.purge)
    touch = sync_method(projects.touch)
    update_memory = sync_method(projects.update_memory)
    list = sync_method(projects.list_of)
    health = sync_method(summaries.health)


class TransactionMemory(Namespace):
    """Every version of every memory file: the operations that may be part of a transaction."""

    snapshot = sync_method(memory.snapshot)
    capture = sync_method(memory.capture)
    delete = sync_method(memory.delete)
    files = sync_method(memory.files)
    history = sync_method(memory.history)
    resolve = sync_method(references.resolve)
    version = sync_method(references.version)
    read = sync_method(references.read)
    content = sync_method(references.content)
    diff = sync_method(diffs.diff)
    checkpoint = sync_method(checkpoints.checkpoint)
    checkpoints = sync_method(checkpoints.checkpoints)
    plan_restore = sync_method(restore_plans.plan_restore)
    plan_undo = sync_method(restore_plans.plan_undo)
    plan_redo = sync_method(restore_plans.plan_redo)
    verify = sync_method(verify.verify)


class Memory(TransactionMemory):
    """Every version of every memory file: append, read, compare, name, restore.

    A restore cannot be part of a transaction: files cannot be rolled back, so their old content must stay on record.
    """

    restore = sync_method(restores.restore)
    undo = sync_method(restores.undo)
    redo = sync_method(restores.redo)
    remove_leftovers = sync_method(leftovers.remove_leftovers)


class Quotas(GuardMethods):
    """Limits of users: reserve an amount before a call, settle the usage after the call.

    Quotas cannot be part of a transaction, which would lock the user's limits as long as the call lasts.
    """

    reserve = sync_method(quotas.reserve)
    settle = sync_method(quotas.settle)
    release = sync_method(quotas.release)
    extend = sync_method(quotas.extend)
    progress = sync_method(quotas.progress)
    add_tokens = sync_method(quotas.add_tokens)
    refund = sync_method(refunds.refund)
    lease_block = sync_method(quotas.lease_block)
    hit = sync_method(quotas.hit)
    usage = sync_method(quota_accounting.usage)
    get = sync_method(quota_accounting.usage)
    check = sync_method(quota_accounting.check)
    reservations = sync_method(quota_accounting.reservations)
    history = sync_method(quota_accounting.history)
    forecast = sync_method(quota_accounting.forecast)
    verify = sync_method(quota_accounting.verify)
    reset_monthly = sync_method(quota_accounting.reset_monthly)
    set_limits = sync_method(limits.set_limits)
    use_plan_limits = sync_method(limits.use_plan_limits)
    set_time_zone = sync_method(limits.set_time_zone)
    plans = sync_method(limits.plans)
    plan_limits = sync_method(limits.plan_limits)
    add_plan = sync_method(limits.add_plan)
    set_plan_limits = sync_method(limits.set_plan_limits)
    grant = sync_method(limits.grant)
    grants = sync_method(limits.grants)
    memory = sync_method(memory_usage.memory)
    record_memory_threshold = sync_method(memory_usage.record_memory_threshold)


class Builds(Namespace):
    """Builds: queued, running, succeeded or failed, and their logs."""

    create = sync_method(builds.create)
    start = sync_method(builds.start)
    succeed = sync_method(builds.succeed)
    fail = sync_method(builds.fail)
    append_log = sync_method(builds.append_log)
    log = sync_method(builds.log)
    get = sync_method(builds.get)
    list = sync_method(builds.list_of)
    stats = sync_method(builds.stats)


class Previews(Namespace):
    """Previews: containers that serve a project at a host."""

    create = sync_method(previews.create)
    set_status = sync_method(previews.set_status)
    stop = sync_method(previews.stop)
    touch = sync_method(previews.touch)
    put_to_sleep_idle = sync_method(previews.put_to_sleep_idle)
    allocate_port = sync_method(previews.allocate_port)
    release_port = sync_method(previews.release_port)
    active = sync_method(previews.active)
    by_host = sync_method(previews.by_host)
    get = sync_method(previews.get)
    list = sync_method(previews.list_of)


class UsageLedger(Namespace):
    """The ledger of usage: entries beside the quotas, and sums over all entries."""

    log = sync_method(usage.log)
    totals = sync_method(usage.totals)


class Events(Namespace):
    """The audit trail."""

    log = sync_method(events.log)
    recent = sync_method(events.recent)
    search = sync_method(events.search)


class Maintenance(Maintaining):
    """Maintenance of the database for all users: single jobs, and all of them.

    Maintenance cannot be part of a transaction: each job commits batch by batch.
    """

    runs = sync_method(maintenance.runs)
    close_periods = sync_method(purges.close_periods)
    reclaim_reservations = sync_method(purges.reclaim_reservations)
    purge_sessions = sync_method(purges.purge_sessions)
    purge_previews = sync_method(purges.purge_previews)
    purge_claims = sync_method(purges.purge_claims)
    purge_events = sync_method(purges.purge_events)
    prune_snapshots = sync_method(retention.prune_snapshots)
    collect_contents = sync_method(retention.collect_contents)


class Schema(Namespace):
    """The schema and its migrations."""

    status = sync_method(schema.status)
    check = sync_method(schema.check)
    migrate = sync_method(schema.migrate)
    server = sync_method(schema.server)


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

    notify = sync_method(notifications.notify)


class Transaction(Topics):
    """The topics of a client, all in one open transaction. Operations of several threads or tasks take turns.

    An operation that fails leaves the transaction as it was before the operation.
    """

    def __init__(self, runner: Runner) -> None:
        """Use `Atlas.transaction`."""
        super().__init__(runner)
        self.memory = TransactionMemory(runner)
