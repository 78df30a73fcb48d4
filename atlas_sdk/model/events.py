"""Events: the audit trail."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import field, frozen

__all__ = ["Event"]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@frozen(kw_only=True)
class Event:
    """One entry of the audit trail: who did what, when, from where."""

    id: UUID
    #: A dotted name, such as "checkpoint.created".
    type: str
    #: The id of the user that the event is about; the nil UUID if there is none.
    user_id: UUID = field(repr=False)
    project_id: UUID | None = field(default=None, repr=False)
    ip: str | None = field(default=None, converter=_text)
    user_agent: str | None = None
    meta: Mapping[str, object] = field(factory=dict)
    created_at: datetime = field(repr=str)
