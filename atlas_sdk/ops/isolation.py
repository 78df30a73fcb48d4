"""Isolation: what the login of a client may do (`sql/migrations/0015_isolation.sql` has the wall itself)."""

from uuid import UUID

from atlas_sdk._plan import Plan, one
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotPermitted
from atlas_sdk.model.isolation import Login

__all__ = ["check_can_act", "check_sees_all", "login"]

sql = statements("isolation")


def login() -> Plan[Login]:
    """Return what the login of this client may do."""
    return (yield from one(sql["login"], Login))


def check_sees_all(work: str) -> Plan[None]:
    """Raise NotPermitted when row-level security hides rows from who is connected: `work` would count what is left."""
    if (yield from login()).row_security_applies:
        raise NotPermitted(
            f"this login does not see all rows, so it cannot do {work}: run it as the owner of the tables (a login "
            "that is a member of atlas_owner) or as a superuser, with the whole client and not one made by as_user"
        )


def check_can_act(found: Login, *, now: UUID | None, then: UUID) -> None:
    """Raise NotPermitted when this login cannot become a tenant, or acts for another one already."""
    if now not in {None, then}:
        raise NotPermitted("this client acts for one user alone: make the copy for another from the whole client")
    if not found.may_act_as_user:
        raise NotPermitted(
            "this login may not act as the role atlas_app, or that does not exist: `atlasctl db init` makes it, or says"
            " what an administrator has to run; then open the client again"
        )
