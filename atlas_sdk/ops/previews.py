"""Previews: containers that serve a project at a host.

The database decides which changes of status are allowed (`sql/migrations/0003_lifecycles.sql`). The host of a live
preview is unique in the database, and its port is unique on its machine. Both become free when the preview stops or
fails.
"""

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, many, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotFound
from atlas_sdk.model.previews import HEALTHS, LIVE, PREVIEW_STATUSES, Preview
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User
from atlas_sdk.ops import events, ports
from atlas_sdk.ops.checks import bounded, json_map, page_size
from atlas_sdk.text import quoted

__all__ = [
    "active",
    "allocate_port",
    "by_host",
    "create",
    "get",
    "list_of",
    "put_to_sleep_idle",
    "release_port",
    "set_status",
    "stop",
    "stop_all",
    "touch",
]

sql = statements("previews")

#: The longest texts of the columns, in characters, and the longest time, in seconds.
_HOST_LENGTH = 253
_ID_LENGTH = 128
_MACHINE_LENGTH = 200
_SLEEP_MAX_S = 2**31 - 2


def _tidy(host: str) -> str:
    """Return a host in lower case, because DNS ignores case, and without the final dot."""
    return host.strip().lower().removesuffix(".")


def _checked_host(host: str) -> str:
    tidy = _tidy(host)
    if not tidy or len(tidy) > _HOST_LENGTH or not tidy.isascii() or any(c.isspace() or c in "/:@\0" for c in tidy):
        raise InvalidInput(
            f"{quoted(host)} is not a host: give a name of at most {_HOST_LENGTH} ASCII characters (others as xn--), "
            "no port",
            field="host",
        )
    return tidy


def _gone(preview_id: UUID) -> NotFound:
    return NotFound(f"no preview has the id {preview_id}", kind="preview", name=str(preview_id))


def _keys(preview: Preview) -> dict[str, UUID]:
    return {"user_id": preview.user_id, "preview_id": preview.id}


def _record(event: str, preview: Preview, **meta: object) -> Plan[None]:
    meta = {"preview": str(preview.id), "host": preview.host, **meta}
    yield from events.record(event, user_id=preview.user_id, project_id=preview.project_id, meta=meta)


@atomic
def create(
    project: Project,
    *,
    host: str,
    container_port: int | None = None,
    machine: str = "",
    auto_sleep: bool = True,
    sleep_after: timedelta = timedelta(minutes=30),
    resource_limits: Mapping[str, object] | None = None,
) -> Plan[Preview]:
    """Register a preview that is being created, and claim its host. Raises AlreadyExists while the host is taken.

    `machine` names the machine that runs the preview, if there are several; ports are unique per machine. With
    `auto_sleep`, `put_to_sleep_idle` puts the preview to sleep when no request came for `sleep_after` (at least a
    second). A preview counts against no quota: hold a `quotas.slot` while it runs. Raises InvalidInput, and NotFound
    when the project is deleted.
    """
    name = _checked_host(host)
    seconds = -(-sleep_after // timedelta(seconds=1))
    if not 1 <= seconds <= _SLEEP_MAX_S:
        raise InvalidInput(f"sleep_after must be at least a second, not {sleep_after}", field="sleep_after")
    columns = {
        "container_port": ports.checked("container_port", container_port),
        "machine": bounded("machine", machine, _MACHINE_LENGTH, least=0),
        "resource_limits": json_map("resource_limits", resource_limits or {}),
    }
    if not (yield from _take_host(name, project.user_id)):
        raise AlreadyExists(f"a live preview has the host {name} already", kind="preview", name=name)
    preview = yield from one_or_none(
        sql["create"],
        Preview,
        user_id=project.user_id,
        preview_id=(yield from context()).new_id(),
        project_id=project.id,
        host=name,
        auto_sleep=auto_sleep,
        sleep_after_s=seconds,
        **columns,
    )
    if preview is None:
        raise NotFound(f"the project {project.id} is deleted", kind="project", name=str(project.id))
    yield from _record("preview.created", preview)
    return preview


def _take_host(host: str, user_id: UUID) -> Plan[bool]:
    """Claim a host; take over the claim of a preview whose row was deleted. Return False if the host is taken."""
    if (yield from execute(sql["claim_host"], host=host, user_id=user_id)):
        return True

    def holder_of(*, user_id: UUID) -> UUID:
        return user_id

    # Lock the claim, so that no other process takes it over.
    holder = yield from one_or_none(sql["lock_claim"], holder_of, host=host)
    if holder is None:
        # Either the claim was just released, or row security hides another tenant's claim and this attempt fails too.
        return bool((yield from execute(sql["claim_host"], host=host, user_id=user_id)))
    if (yield from scalar(sql["serves"], bool, user_id=holder, host=host)):
        return False
    yield from execute(sql["take_over_claim"], host=host, user_id=user_id)
    return True


@atomic
def set_status(
    preview: Preview,
    status: str,
    *,
    container_id: str | None = None,
    network_id: str | None = None,
    host_port: int | None = None,
    health: str | None = None,
) -> Plan[Preview]:
    """Change the status of a preview, and the given fields. Raises IllegalTransition, NotFound, InvalidInput.

    Allowed changes: creating -> running, failed, stopped; running <-> sleeping; both -> stopped, failed. A preview that
    stops or fails frees its host and port for good. If the status is the present one, only the given fields change.
    Give `host_port` to register a port that you chose yourself; raises AlreadyExists when another live preview of the
    machine has the port.
    """
    if status not in PREVIEW_STATUSES:
        raise InvalidInput(f"status must be one of {', '.join(PREVIEW_STATUSES)}, not {quoted(status)}", field="status")
    if health is not None and health not in HEALTHS:
        raise InvalidInput(f"health must be one of {', '.join(HEALTHS)}, not {quoted(health)}", field="health")
    facts = {
        "container_id": bounded("container_id", container_id, _ID_LENGTH),
        "network_id": bounded("network_id", network_id, _ID_LENGTH),
        "host_port": ports.checked("host_port", host_port),
        "health": health,
    }
    if host_port is not None and status in LIVE:
        locked = yield from one_or_none(sql["lock"], Preview, **_keys(preview))
        if locked is not None and locked.is_live:
            yield from ports.take(locked, host_port)
    changed = yield from one_or_none(sql["change_status"], Preview, status=status, **_keys(preview), **facts)
    if changed is not None:
        if not changed.is_live:
            yield from execute(sql["release_host"], host=changed.host, user_id=changed.user_id)
            yield from ports.release(changed)
        yield from _record(f"preview.{status}", changed, **{k: v for k, v in facts.items() if v is not None})
        return changed
    described = yield from one_or_none(sql["describe"], Preview, status=status, **_keys(preview), **facts)
    if described is not None:
        yield from _record("preview.changed", described, **{k: v for k, v in facts.items() if v is not None})
        return described
    found = yield from one_or_none(sql["get"], Preview, **_keys(preview))
    if found is None:
        raise _gone(preview.id)
    return found


def stop(preview: Preview) -> Plan[Preview]:
    """Stop a preview for good, and free its host and port. Idempotent.

    Raises IllegalTransition for a preview that failed, and NotFound.
    """
    return (yield from set_status(preview, "stopped"))


def stop_all(project: Project) -> Plan[int]:
    """Stop every live preview of a project, in the caller's transaction; return how many."""
    found = yield from many(sql["live"], Preview, user_id=project.user_id, project_id=project.id)
    for preview in found:
        yield from stop(preview)
    return len(found)


def touch(preview: Preview) -> Plan[None]:
    """Record a visit to a preview, with one UPDATE that writes at most once a second. Ignore a preview that has ended.

    There is no event, because a proxy calls this at every request.
    """
    yield from execute(sql["touch"], **_keys(preview))


def put_to_sleep_idle(*, limit: int = 100) -> Plan[list[Preview]]:
    """Put to sleep the running previews of all users that had no visit for their `sleep_after`; return them.

    The call changes at most `limit` previews, beginning with the one that was idle longest. Each change is one
    transaction, so several processes may do this at once. The caller must pause the containers, and set the status to
    "running" at the next visit.
    """
    slept = []
    for candidate in (yield from many(sql["idle"], Preview, limit=page_size(limit))):
        preview = yield from _sleep(candidate)
        if preview is not None:
            slept.append(preview)
    return slept


@atomic
def _sleep(candidate: Preview) -> Plan[Preview | None]:
    preview = yield from one_or_none(sql["sleep_if_idle"], Preview, **_keys(candidate))
    if preview is not None:
        yield from _record("preview.sleeping", preview, reason="idle")
    return preview


@atomic
def allocate_port(preview: Preview, *, ports: range = ports.PORTS) -> Plan[Preview]:
    """Give a live preview a free port of its machine; return the preview with its `host_port`. Raises PortsExhausted.

    Two live previews of a machine never have the same port. A preview that has a port keeps it. Raises InvalidInput
    when the preview has ended, and NotFound.
    """
    return (yield from _allocate(preview, ports))


def _allocate(preview: Preview, wanted: range) -> Plan[Preview]:
    locked = yield from one_or_none(sql["lock"], Preview, **_keys(preview))
    if locked is None:
        raise _gone(preview.id)
    if not locked.is_live:
        raise InvalidInput(f"the preview of {locked.host} is {locked.status}: it needs no port", field="preview")
    port = yield from ports.allocate(locked, wanted)
    if port == locked.host_port:
        return locked
    changed = yield from one(sql["set_port"], Preview, port=port, **_keys(preview))
    yield from _record("preview.port_allocated", changed, host_port=port, machine=changed.machine)
    return changed


@atomic
def release_port(preview: Preview) -> Plan[Preview]:
    """Free the port of a preview before the preview ends. Idempotent. Raises NotFound."""
    locked = yield from one_or_none(sql["lock"], Preview, **_keys(preview))
    if locked is None:
        raise _gone(preview.id)
    if not (yield from ports.release(locked)):
        return locked
    changed = yield from one(sql["set_port"], Preview, port=None, **_keys(preview))
    yield from _record("preview.port_released", changed, host_port=locked.host_port, machine=changed.machine)
    return changed


def active(project: Project) -> Plan[Preview | None]:
    """Return the preview that serves a project now, or None: the newest running one, else the newest sleeping one."""
    return (yield from one_or_none(sql["active"], Preview, user_id=project.user_id, project_id=project.id))


def by_host(host: str) -> Plan[Preview | None]:
    """Return the live preview that gets the requests for a host, or None. Case does not matter."""
    return (yield from one_or_none(sql["by_host"], Preview, host=_tidy(host)))


def get(user: User, preview_id: UUID) -> Plan[Preview]:
    """Return a preview by its id. Raises NotFound."""
    found = yield from one_or_none(sql["get"], Preview, user_id=user.id, preview_id=preview_id)
    if found is None:
        raise _gone(preview_id)
    return found


def list_of(
    project: Project, *, status: str | None = None, limit: int = 50, before: Preview | UUID | None = None
) -> Plan[list[Preview]]:
    """Return the previews of a project, newest first. Raises InvalidInput.

    Pass the last preview of a page as `before` to get the next page.
    """
    if status is not None and status not in PREVIEW_STATUSES:
        raise InvalidInput(f"status must be one of {', '.join(PREVIEW_STATUSES)}, not {quoted(status)}", field="status")
    return (
        yield from many(
            sql["list"],
            Preview,
            user_id=project.user_id,
            project_id=project.id,
            status=status,
            before=before.id if isinstance(before, Preview) else before,
            limit=page_size(limit),
        )
    )
