"""Clients of tests that take over the connections of an earlier test's client.

A server process that has just started compiles each function at its first call: the first reservation takes 20 ms of
CPU time and the second one 3 ms. Opening a client takes 16 ms. So the client of the next test on the same database is
a new object without a memory of its own, on the connections of the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define, evolve, field
from client_adapter import Adapter

from atlas_sdk import AsyncAtlas, Atlas
from atlas_sdk._connect import prepare
from atlas_sdk._drive import AsyncDriver, Driver
from atlas_sdk._drive.wakeups import AsyncWakeups, Wakeups
from atlas_sdk.aio import _Connected

#: The most connections of a pool that is kept.
_CONNECTIONS_MAX = 4
#: Attributes of a configuration that a connection changes.
_FOUND = {"pooler", "encrypted", "listeners"}


@define
class _Kept:
    """The connections of a closed client, which no client uses."""

    config: Any
    login: Any
    #: The pool of the client and that of its quotas.
    pools: tuple[Any, Any]
    loop: asyncio.AbstractEventLoop | None
    close: Callable[[], None]

    def backends(self) -> list[int]:
        """Return the ids of the server processes of the idle connections."""
        return [one.info.backend_pid for pool in self.pools for one in list(pool._pool._pool)]


@define
class WarmClients:
    """The connections that closed clients have left, by the kind of the client and the address of the database."""

    _kept: dict[tuple[str, str], list[_Kept]] = field(factory=dict)
    #: The configuration of each open client when it was opened.
    _configs: dict[int, dict[str, Any]] = field(factory=dict)

    def open(self, adapter: Adapter, dsn: str) -> Any:
        """Return an open client, on the connections of an earlier one if there are any."""
        known = self._kept.get((adapter.kind, dsn))
        client = self._taken_over(adapter, known.pop(), dsn) if known else adapter.open(dsn)
        self._configs[id(client)] = _settings_of(client)
        return client

    @staticmethod
    def _taken_over(adapter: Adapter, kept: _Kept, dsn: str) -> Any:
        opened = evolve(prepare(dsn, {}), config=kept.config)
        if adapter.loop is None:
            client = Atlas(opened, Driver(kept.config, opened.context, pool=kept.pools[0]), kept.login)
            client._quotas_driver._pool = kept.pools[1]
            return client
        adapter.loop.close()
        assert kept.loop is not None
        adapter.loop = kept.loop
        drivers = [AsyncDriver(kept.config, opened.context, pool=pool) for pool in kept.pools]
        asynchronous = AsyncAtlas.open(dsn)
        asynchronous._connection = _Connected(opened, *drivers, kept.login)
        return asynchronous

    def close(self, adapter: Adapter, client: Any) -> None:
        """Close a client and its adapter, but keep its connections if nothing about them was changed."""
        settings = self._configs.pop(id(client))
        opened, login = client._found()
        blocking = adapter.loop is None
        drivers = (client._driver, client._quotas_driver) if blocking else (
            client._connection.driver, client._connection.quotas_driver
        )  # fmt: skip
        pools = (drivers[0]._pool, drivers[1]._pool)
        if _settings_of(client) != settings or any(pool.closed or _is_changed(pool) for pool in pools):
            self._end(adapter, client)
            return
        adapter.do(client.quotas.close())
        opened.config.close()
        opened.release()
        for pool in pools:
            adapter.do(pool.wakeups.close())
            pool.wakeups = (Wakeups if blocking else AsyncWakeups)(opened.config)
        if any(not _is_idle(pool) for pool in pools) or (adapter.loop is not None and _is_busy(adapter.loop)):
            self._end(adapter, client)
            return
        kept = _Kept(opened.config, login, pools, adapter.loop, lambda: self._end(adapter, client))
        self._kept.setdefault((adapter.kind, opened.config.dsn), []).append(kept)

    @staticmethod
    def _end(adapter: Adapter, client: Any) -> None:
        adapter.do(client.close())
        Adapter.close(adapter)

    def backends(self, dsn: str) -> list[int]:
        """Return the ids of the server processes that are kept for a database."""
        return [pid for (_, of), known in self._kept.items() if of == dsn for kept in known for pid in kept.backends()]

    def forget(self, dsn: str | None = None) -> None:
        """Close all that is kept for a database; without a database, for all of them."""
        for key in [key for key in self._kept if dsn in (None, key[1])]:
            for kept in self._kept.pop(key):
                kept.close()


def _settings_of(client: Any) -> dict[str, Any]:
    opened, _ = client._found()
    found = {name: value for name, value in vars(opened.config).items() if name not in _FOUND}
    return {**found, "kwargs": dict(opened.config.kwargs)}


def _is_changed(pool: Any) -> bool:
    """Return whether a test has replaced a method of a pool."""
    return any(set(vars(one)) & {name for name in dir(type(one)) if callable(getattr(type(one), name))}
               for one in (pool, pool._pool))  # fmt: skip


def _is_idle(pool: Any) -> bool:
    stats = pool.stats()
    return stats.in_use == 0 and stats.waiting == 0 and stats.size <= _CONNECTIONS_MAX


def _is_busy(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop has tasks of others than the pools."""
    return loop.is_closed() or any(not task.get_name().startswith("pool-") for task in asyncio.all_tasks(loop))


#: The clients of this process.
WARM = WarmClients()


@contextmanager
def warm_client(kind: str, dsn: str) -> Iterator[Any]:
    """Yield a client that tests call without `await`."""
    adapter = Adapter(kind)
    client = WARM.open(adapter, dsn)
    try:
        yield adapter.wrap(client)
    finally:
        WARM.close(adapter, client)
