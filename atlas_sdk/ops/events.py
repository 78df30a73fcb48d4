"""Write and search the audit trail."""

import json
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from atlas_sdk._plan import Json, Plan, context, execute, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.events import Event
from atlas_sdk.model.origin import Address, Origin
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User
from atlas_sdk.ops.checks import bounded, moment, page_size

__all__ = ["log", "recent", "record", "record_from", "search"]

sql = statements("events")

#: The bound of the column.
_TYPE_LENGTH = 100
#: The longest text to search for.
_TEXT_LENGTH = 1000


def record(
    event_type: str, *, user_id: UUID, project_id: UUID | None = None, meta: Mapping[str, object] | None = None
) -> Plan[None]:
    """Record an event in the caller's transaction, with the client's origin."""
    origin = (yield from context()).origin
    yield from record_from(origin, event_type, user_id=user_id, project_id=project_id, meta=meta)


def record_from(
    origin: Origin,
    event_type: str,
    *,
    user_id: UUID,
    project_id: UUID | None = None,
    meta: Mapping[str, object] | None = None,
) -> Plan[None]:
    """Record an event in the caller's transaction, with another origin than the client's."""
    ctx = yield from context()
    yield from execute(
        sql["record"],
        user_id=user_id,
        event_id=ctx.new_id(),
        type=event_type,
        project_id=project_id,
        ip=origin.ip,
        user_agent=origin.user_agent,
        meta=Json({**ctx.attribution.to_json(), **(meta or {})}),
    )


def log(
    event_type: str,
    *,
    user: User,
    project: Project | None = None,
    meta: Mapping[str, object] | None = None,
    ip: Address | None = None,
    user_agent: str | None = None,
) -> Plan[None]:
    """Record an event of your own, such as "deploy.done". Raises InvalidInput.

    `search` finds event types by prefix. `ip` and `user_agent` default to those of `with_context`.
    """
    if not event_type or len(event_type) > _TYPE_LENGTH:
        raise InvalidInput(f"event_type must have 1 to 100 characters, not {len(event_type)}", field="event_type")
    origin = (yield from context()).origin.but(ip=ip, user_agent=user_agent)
    project_id = None if project is None else project.id
    yield from record_from(origin, event_type, user_id=user.id, project_id=project_id, meta=meta)


def recent(user: User, *, project: Project | None = None, limit: int = 50) -> Plan[list[Event]]:
    """Return the newest events of a user, or of one project, newest first. Raises InvalidInput."""
    keys = {"user_id": user.id, "limit": page_size(limit)}
    if project is None:
        return (yield from many(sql["recent"], Event, **keys))
    return (yield from many(sql["recent_of_project"], Event, project_id=project.id, **keys))


def search(
    user: User,
    *,
    event_type: str | None = None,
    project: Project | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    text: str | None = None,
    limit: int = 50,
    before: Event | None = None,
) -> Plan[list[Event]]:
    """Return the events of a user that match all conditions, newest first. Raises InvalidInput.

    `event_type` is a prefix of the type: "build." finds all events of builds. `text` may be anywhere in `meta`;
    case is ignored. The range includes `since` but not `until`. Pass the last event of a page as `before` to get the
    next page; new events do not shift pages. `event_type` and `text` have no index: if few events match and no times
    are given, the search reads the whole trail of the user or project.
    """
    asked = {
        "user_id": user.id,
        "event_type": bounded("event_type", event_type, _TYPE_LENGTH, least=0),
        "since": moment("since", since),
        "until": moment("until", until),
        "text": _as_json(bounded("text", text, _TEXT_LENGTH, least=0)),
        "before_at": None if before is None else before.created_at,
        "before_id": None if before is None else before.id,
        "limit": page_size(limit),
    }
    if project is None:
        return (yield from many(sql["search"], Event, **asked))
    return (yield from many(sql["search_in_project"], Event, project_id=project.id, **asked))


def _as_json(text: str | None) -> str | None:
    """Return a text with the escapes of JSON, because the search compares it with `meta` as JSON text."""
    return None if text is None else json.dumps(text, ensure_ascii=False)[1:-1]
