"""The operations of each topic, for both clients: `topics` makes their namespaces."""

from atlas_sdk._namespaces import method
from atlas_sdk._script_methods import script_method
from atlas_sdk.ops import (
    auth,
    builds,
    checkpoints,
    delivery,
    diffs,
    events,
    leftovers,
    limits,
    maintenance,
    memory,
    memory_usage,
    moves,
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
    snapshot_many,
    summaries,
    usage,
    users,
    verify,
)

__all__ = [
    "BuildOperations",
    "EventOperations",
    "MaintenanceOperations",
    "MemoryOperations",
    "PreviewOperations",
    "ProjectOperations",
    "QuotaOperations",
    "RestoreOperations",
    "SchemaOperations",
    "SessionOperations",
    "UsageOperations",
    "UserOperations",
]


class UserOperations:
    """Users: the tenants."""

    create = method(users.create)
    get = method(users.get)
    by_email = method(users.by_email)
    local = method(users.local_user)
    find_local = method(users.find_local)
    list = method(users.list_all)
    set_plan = method(users.set_plan)
    verify_email = method(users.verify_email)
    update = method(users.update)
    delete = method(users.delete)
    authenticate = method(auth.authenticate)
    set_password = method(auth.set_password)
    usage_summary = method(summaries.usage_summary)


class SessionOperations:
    """Sign-in sessions: tokens that are valid until they expire or are revoked."""

    issue = method(sessions.issue)
    verify = method(sessions.verify)
    touch = method(sessions.touch)
    revoke = method(sessions.revoke)
    revoke_all = method(sessions.revoke_all)
    list = method(sessions.list_active)
    purge_expired = method(sessions.purge_expired)


class ProjectOperations:
    """Projects: the folders whose memory files are kept."""

    create = method(projects.create)
    get = method(projects.get)
    by_path = method(projects.by_path)
    by_session = method(projects.by_session)
    at = method(projects.at)
    archive = method(projects.archive)
    activate = method(projects.activate)
    move = method(moves.move)
    find_moved = method(moves.find_moved)
    set_status = method(projects.set_status)
    delete = method(projects.delete)
    purge = method(projects.purge)
    touch = method(projects.touch)
    update_memory = method(projects.update_memory)
    list = method(projects.list_of)
    health = method(summaries.health)


class MemoryOperations:
    """Every version of every memory file: the operations that may be part of a transaction."""

    snapshot = method(memory.snapshot)
    snapshot_many = method(snapshot_many.snapshot_many)
    capture = method(memory.capture)
    delete = method(memory.delete)
    deliver = method(delivery.deliver)
    files = method(memory.files)
    heads = method(memory.heads)
    history = method(memory.history)
    resolve = method(references.resolve)
    version = method(references.version)
    read = method(references.read)
    content = method(references.content)
    diff = method(diffs.diff)
    checkpoint = method(checkpoints.checkpoint)
    checkpoints = method(checkpoints.checkpoints)
    plan_restore = method(restore_plans.plan_restore)
    plan_undo = method(restore_plans.plan_undo)
    plan_redo = method(restore_plans.plan_redo)
    verify = method(verify.verify)


class RestoreOperations:
    """Every version of every memory file: append, read, compare, name, restore.

    A restore cannot be part of a transaction: files cannot be rolled back, so their old content must stay on record.
    """

    restore = method(restores.restore)
    undo = method(restores.undo)
    redo = method(restores.redo)
    remove_leftovers = method(leftovers.remove_leftovers)


class QuotaOperations:
    """Limits of users: reserve an amount before a call, settle the usage after the call.

    Quotas cannot be part of a transaction, which would lock the user's limits as long as the call lasts.
    """

    reserve = method(quotas.reserve)
    settle = method(quotas.settle)
    release = method(quotas.release)
    extend = method(quotas.extend)
    progress = method(quotas.progress)
    add_tokens = method(quotas.add_tokens)
    refund = method(refunds.refund)
    lease_block = method(quotas.lease_block)
    hit = method(quotas.hit)
    usage = method(quota_accounting.usage)
    get = method(quota_accounting.usage)
    check = method(quota_accounting.check)
    reservations = method(quota_accounting.reservations)
    history = method(quota_accounting.history)
    forecast = method(quota_accounting.forecast)
    verify = method(quota_accounting.verify)
    reset_monthly = method(quota_accounting.reset_monthly)
    set_limits = method(limits.set_limits)
    use_plan_limits = method(limits.use_plan_limits)
    set_time_zone = method(limits.set_time_zone)
    plans = method(limits.plans)
    plan_limits = method(limits.plan_limits)
    add_plan = method(limits.add_plan)
    set_plan_limits = method(limits.set_plan_limits)
    grant = method(limits.grant)
    grants = method(limits.grants)
    memory = method(memory_usage.memory)
    record_memory_threshold = method(memory_usage.record_memory_threshold)


class BuildOperations:
    """Builds: queued, running, succeeded or failed, and their logs."""

    create = method(builds.create)
    start = method(builds.start)
    succeed = method(builds.succeed)
    fail = method(builds.fail)
    append_log = method(builds.append_log)
    log = method(builds.log)
    get = method(builds.get)
    list = method(builds.list_of)
    stats = method(builds.stats)


class PreviewOperations:
    """Previews: containers that serve a project at a host."""

    create = method(previews.create)
    set_status = method(previews.set_status)
    stop = method(previews.stop)
    touch = method(previews.touch)
    put_to_sleep_idle = method(previews.put_to_sleep_idle)
    allocate_port = method(previews.allocate_port)
    release_port = method(previews.release_port)
    active = method(previews.active)
    by_host = method(previews.by_host)
    get = method(previews.get)
    list = method(previews.list_of)


class UsageOperations:
    """The ledger of usage: entries beside the quotas, and sums over all entries."""

    log = method(usage.log)
    totals = method(usage.totals)


class EventOperations:
    """The audit trail."""

    log = method(events.log)
    recent = method(events.recent)
    search = method(events.search)


class MaintenanceOperations:
    """Maintenance of the database for all users: single jobs, and all of them.

    Maintenance cannot be part of a transaction: each job commits batch by batch.
    """

    run = script_method(maintenance.run)
    run_if_due = script_method(maintenance.run_if_due)
    runs = method(maintenance.runs)
    close_periods = method(purges.close_periods)
    reclaim_reservations = method(purges.reclaim_reservations)
    purge_sessions = method(purges.purge_sessions)
    purge_previews = method(purges.purge_previews)
    purge_claims = method(purges.purge_claims)
    purge_events = method(purges.purge_events)
    prune_snapshots = method(retention.prune_snapshots)
    collect_contents = method(retention.collect_contents)
    sum_usage = method(usage.sum_usage)


class SchemaOperations:
    """The schema and its migrations."""

    status = method(schema.status)
    check = method(schema.check)
    migrate = method(schema.migrate)
    server = method(schema.server)
