"""Users: the tenants of a database."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen

__all__ = ["NOBODY", "Credentials", "Deletion", "User"]

#: Stands for "no user" in the audit trail.
NOBODY = UUID(int=0)


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
    #: When the password was set last; None until one is. What was read before is too old for `sessions.issue`.
    password_changed_at: datetime | None = field(default=None, repr=False)
    created_at: datetime = field(repr=str)
    updated_at: datetime = field(repr=False)


@frozen(kw_only=True)
class Credentials:
    """The stored data that a sign-in is checked against."""

    user_id: UUID
    #: None: nobody can sign in with a password.
    password_hash: str | None = field(repr=False)
    #: As in `User`: a hash that is only renewed leaves it alone.
    password_changed_at: datetime | None = field(repr=False)


@frozen(kw_only=True)
class Deletion:
    """The rows deleted with a user; the audit trail stays."""

    user_id: UUID
    projects: int
    memory_snapshots: int
    builds: int
    previews: int
    sessions: int
    #: Rows of the usage ledger.
    usage_entries: int
    #: Names that are free again: the e-mail address, hosts of previews, session ids of projects.
    claims: int
