"""Users: the tenants of a database."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen

__all__ = ["User"]


@frozen(kw_only=True)
class User:
    """A tenant: everything else belongs to one."""

    id: UUID
    #: Lower case; unique in the database.
    email: str
    name: str = ""
    #: "free", "pro", "enterprise", or one of the platform's.
    plan: str
    email_verified: bool
    created_at: datetime = field(repr=str)
    updated_at: datetime = field(repr=False)
