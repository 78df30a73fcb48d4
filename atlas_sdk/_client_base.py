"""The part of a client that never waits. Therefore it is the same for threads and for asyncio."""

from typing import Self
from uuid import UUID

from atlas_sdk._connect import Opened
from atlas_sdk._signatures import wrong_kind
from atlas_sdk.dsn import masked
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.isolation import Login
from atlas_sdk.model.origin import Address, Origin
from atlas_sdk.model.users import User
from atlas_sdk.ops.isolation import check_can_act

__all__ = ["ClientBase"]


class ClientBase:
    """Base class of both clients: their address, their copies and their name.

    A copy shares the connections of the original client.
    """

    #: The address and the user agent of a request, in a copy made by `with_context`.
    _origin: Origin
    #: The only user that a copy made by `as_user` acts for.
    _tenant: UUID | None

    def _found(self) -> tuple[Opened, Login]:
        """Return the facts that were found when the client connected. Raises InvalidInput before that."""
        raise NotImplementedError

    def _copy(self, origin: Origin, tenant: UUID | None) -> Self:
        raise NotImplementedError

    def __repr__(self) -> str:
        name = type(self).__name__
        try:
            opened, _ = self._found()
        except InvalidInput:
            return f"<{name}, not connected>"
        tenant = "" if self._tenant is None else f", for user {self._tenant}"
        return f"<{name} of {masked(opened.config.dsn)}{tenant}>"

    @property
    def url(self) -> str:
        """The address of the database, for psql and the like; it may hold a password that the caller gave."""
        return self._found()[0].config.dsn

    def keep_server_for(self, seconds: float) -> None:
        """Keep the embedded server running this long after its last user has left; do nothing for a server by DSN."""
        self._found()[0].keep_for(seconds)

    def with_context(self, *, ip: Address | None = None, user_agent: str | None = None, strict: bool = True) -> Self:
        """Return a light copy of this client for one request; the audit names its address and agent. Do not await it.

        ::

            host = request.client.host if request.client else None
            atlas.with_context(ip=host, user_agent=request.headers["user-agent"], strict=False).users.create(…)

        The copy shares the connections and needs no close; its `close` does nothing. A copy of a copy keeps the values
        that are not given again. A long `user_agent` is cut to 1,024 characters. Raises InvalidInput if `ip` is no IP
        address. With `strict=False` the copy has no address then: test clients give the name "testclient", and some
        proxies "unknown".
        """
        return self._copy(self._origin.but(ip=ip, user_agent=user_agent, strict=strict), self._tenant)

    def as_user(self, user: User | UUID) -> Self:
        """Return a light copy of this client that can use only this user's rows. Do not await it.

        ::

            tenant = atlas.as_user(user)
            tenant.projects.list(user)

        Every statement runs as the role `atlas_app` under row-level security, in the same round trip. The platform's
        own operations (sign up, plans, limits, maintenance) raise NotPermitted, and so does every operation on another
        user. The copy shares the connections and needs no close. Raises NotPermitted if this login cannot act for the
        user.
        """
        if not isinstance(user, User | UUID):
            raise wrong_kind(user, "user", (User, UUID))
        tenant = user if isinstance(user, UUID) else user.id
        check_can_act(self._found()[1], now=self._tenant, then=tenant)
        return self._copy(self._origin, tenant)

    def _check_joins(self) -> None:
        """Raise InvalidInput if this client acts for one user: a caller's transaction must keep its role."""
        if self._tenant is not None:
            raise InvalidInput("a client that acts for one user has its own transactions", field="connection")
