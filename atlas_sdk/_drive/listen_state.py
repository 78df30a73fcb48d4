"""The shared part of both listeners: the LISTEN command, and the wait before a lost connection is opened again."""

import logging
import random
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from attrs import frozen
from psycopg import AsyncConnection, Connection, sql

from atlas_sdk._drive.configure import is_pooled
from atlas_sdk._forks import process
from atlas_sdk.dsn import parsed, scrub
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.notifications import Notification, NotificationGap
from atlas_sdk.ops.notifications import channel_name, channel_prefix

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig

__all__ = ["ListenAddress", "ListenState", "listen_address"]

logger = logging.getLogger("atlas_sdk.notifications")

#: Seconds: the longest wait before the first new attempt. Each further wait may be twice as long, up to _LONGEST_S.
_FIRST_S = 0.1
_LONGEST_S = 10.0
#: With these settings the client notices within a minute that the server is gone, and no firewall drops the connection.
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


@frozen(kw_only=True)
class ListenAddress:
    """The options of a listener's connection, and its first command."""

    kwargs: dict[str, Any]
    listen: sql.Composed


def listen_address(config: "ConnectionConfig", channels: Iterable[str], tenant: UUID | None) -> ListenAddress:
    """Return the connection options and the LISTEN command for these channels. Raises InvalidInput.

    With a `tenant`, the names are those of the tenant's own channels.
    """
    names = [channel_name(channel, tenant=tenant) for channel in channels]
    if not names:
        raise InvalidInput("name a channel to listen to", field="channels")
    given = parsed(config.dsn)
    return ListenAddress(
        kwargs={
            **{key: value for key, value in _KEEPALIVE.items() if key not in given},
            **config.kwargs,
            "prepare_threshold": None,
        },
        listen=sql.SQL("; ").join(sql.SQL("LISTEN {}").format(sql.Identifier(name)) for name in names),
    )


class ListenState:
    """The notifications that wait for the caller, and the state of the connection."""

    def __init__(self, config: "ConnectionConfig", tenant: UUID | None) -> None:
        self._config = config
        self._prefix = channel_prefix(tenant)
        self._generation = process.generation
        self._found: deque[Notification | NotificationGap] = deque()
        self._lost_at: float | None = None
        self._attempts = 0
        self._next_at = 0.0

    def take(self) -> Notification | NotificationGap | None:
        """Remove the oldest item and return it; return None if there is no item."""
        return self._found.popleft() if self._found else None

    def received(self, note: psycopg.Notify) -> None:
        """Keep a notification until `take` returns it."""
        self._found.append(
            Notification(channel=note.channel.removeprefix(self._prefix), payload=note.payload, pid=note.pid)
        )

    def check_connection(self, connection: Connection[Any] | AsyncConnection[Any], answer: tuple[int] | None) -> None:
        """Raise InvalidInput behind a pooler in transaction mode."""
        if is_pooled(connection, answer) and self._config.pooler != "session":
            raise InvalidInput(
                "LISTEN cannot work through a pooler in transaction mode, where nothing would ever be heard: give "
                "`Atlas.open` the server's own address for this; `notify` works through the pooler",
                field="dsn",
            )

    def check_process(self) -> None:
        """Raise InvalidInput in a forked child: it must not read from its parent's connection."""
        if process.generation != self._generation:
            raise InvalidInput("a listener cannot be used in a forked child: make one there", field="listener")

    def connected(self) -> None:
        """Note that the connection is open and listens. If it was lost before, add a NotificationGap."""
        if self._lost_at is not None:
            self._found.append(NotificationGap(seconds=time.monotonic() - self._lost_at))
            logger.info("listening again")
        self._lost_at = None
        self._attempts = 0

    def lost(self, error: Exception) -> None:
        """Note that the connection is lost, and set the time of the next attempt, for `wait_s`."""
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            logger.warning("a listener lost its connection, and what is sent until it has a new one")
        scrub(error, self._config.dsn)
        logger.debug("no connection to listen on", exc_info=error)
        longest = min(_LONGEST_S, _FIRST_S * 2**self._attempts)
        self._attempts = min(self._attempts + 1, 10)
        self._next_at = now + longest * random.uniform(0.5, 1)  # noqa: S311  # listeners must not all reconnect at once

    def wait_s(self) -> float:
        """Return the seconds to wait before the next attempt to connect."""
        return max(0.0, self._next_at - time.monotonic())
