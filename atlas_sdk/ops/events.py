"""The audit trail: what happened, to whom, when."""

from collections.abc import Mapping
from uuid import UUID

from atlas_sdk._plan import Json, Plan, context, execute, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.events import Event
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User

__all__ = ["log", "recent", "record"]

sql = statements("events")


def record(
    event_type: str, *, user_id: UUID, project_id: UUID | None = None, meta: Mapping[str, object] | None = None
) -> Plan[None]:
    """Record an event in the transaction of the caller."""
    lent = yield from context()
    yield from execute(
        sql["record"],
        user_id=user_id,
        event_id=lent.new_id(),
        type=event_type,
        project_id=project_id,
        ip=None,
        user_agent=None,
        meta=Json({**lent.attribution.to_json(), **(meta or {})}),
    )


def log(
    event_type: str, *, user: User, project: Project | None = None, meta: Mapping[str, object] | None = None
) -> Plan[None]:
    """Record an event of your own; `event_type` is dotted lower case, such as "deploy.done"."""
    if not event_type or len(event_type) > 100:  # noqa: PLR2004  # the column's own bound
        raise InvalidInput(f"an event type has 1 to 100 characters, not {len(event_type)}", field="event_type")
    yield from record(event_type, user_id=user.id, project_id=None if project is None else project.id, meta=meta)


def recent(user: User, *, project: Project | None = None, limit: int = 50) -> Plan[list[Event]]:
    """Return the newest events of a user, or of one project, newest first."""
    if limit < 1:
        raise InvalidInput(f"limit is at least 1, not {limit}", field="limit")
    project_id = None if project is None else project.id
    return (yield from many(sql["recent"], Event, user_id=user.id, project_id=project_id, limit=limit))
