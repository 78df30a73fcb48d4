"""Check the rights of a client's login (`sql/migrations/0012_administration.sql` isolates the tenants)."""

from uuid import UUID

from atlas_sdk._plan import Plan, one
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotPermitted
from atlas_sdk.model.isolation import Login

__all__ = ["check_can_act", "check_sees_all", "login"]

sql = statements("isolation")


def login() -> Plan[Login]:
    """Return the rights of this client's login."""
    return (yield from one(sql["login"], Login))


def check_sees_all(work: str) -> Plan[None]:
    """Raise NotPermitted when row-level security hides rows from this login, because `work` would be incomplete."""
    if (yield from login()).row_security_applies:
        raise NotPermitted(
            f"this login does not see all rows, so it cannot do {work}: run it as the owner of the tables (a login "
            "that is a member of atlas_owner) or as a superuser, and with a client that as_user did not make"
        )


def check_can_act(found: Login, *, now: UUID | None, then: UUID) -> None:
    """Raise NotPermitted when this login cannot act as a tenant, or acts for another tenant already."""
    if now not in {None, then}:
        raise NotPermitted("this client acts for one user: call as_user of the client that it was made from")
    if not found.may_act_as_user:
        raise NotPermitted(
            "this login may not act as the role atlas_app, or the role does not exist: grant it to the login, then "
            "open the client again"
        )
