"""Users, the tenants of a database."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen

__all__ = ["NOBODY", "Credentials", "User", "UserDeletion"]

#: The id that stands for "no user" in the audit trail.
NOBODY = UUID(int=0)


@frozen(kw_only=True)
class User:
    """A tenant. Every other object belongs to a user."""

    id: UUID
    #: In its stored form: see `users.create`. Unique in the database.
    email: str
    name: str = ""
    #: "free", "pro", "enterprise", or a plan of the platform's own.
    plan: str
    email_verified: bool
    #: The time when the password was last set, or None. `sessions.issue` refuses a `User` that was read before then.
    password_changed_at: datetime | None = field(default=None, repr=False)
    created_at: datetime = field(repr=str)
    updated_at: datetime = field(repr=False)


@frozen(kw_only=True)
class Credentials:
    """The stored data with which a sign-in is compared."""

    user_id: UUID
    #: None when the user cannot sign in with a password.
    password_hash: str | None = field(repr=False)
    #: As in `User`; rehashing the same password does not change it.
    password_changed_at: datetime | None = field(repr=False)


@frozen(kw_only=True)
class UserDeletion:
    """Counts of the rows that were deleted with a user. The audit trail stays."""

    user_id: UUID
    projects: int
    memory_snapshots: int
    builds: int
    previews: int
    sessions: int
    #: Rows of the usage ledger.
    usage_entries: int
    #: Names that became free: the e-mail address, hosts of previews, session ids of projects.
    claims: int
