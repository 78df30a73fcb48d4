"""Clients of both kinds for tests of quotas, and a runner that loses answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from client_adapter import Adapter
from patience import PATIENCE_S
from warm_clients import WARM

from atlas_sdk import DatabaseUnreachable, User
from atlas_sdk._connect import new_id
from atlas_sdk._embedded import locks


class QuotaClient(Adapter):
    """A client of either kind, with short names for the calls that tests of quotas make most."""

    def __init__(self, kind: str, dsn: str | None, *, warm: bool = False, **options: Any) -> None:
        super().__init__(kind)
        self._is_warm = warm
        #: The client itself, without the adapter.
        self.atlas = WARM.open(self, str(dsn)) if warm else self.open(dsn, **options)
        self._adapted = self.wrap(self.atlas)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapted, name)

    def guard(self, user: User, **options: Any) -> Any:
        """Enter a guard."""
        return self.entered(self.quotas.guard(user, **options))

    def user(self, **limits: Any) -> User:
        """Make a user with these limits and no others."""
        made = self.do(self.atlas.users.create(f"{new_id()}@example.com"))
        names = ("tokens", "cost", "containers", "requests_per_hour", "builds_per_day")
        self.quotas.set_limits(made, **{**dict.fromkeys(names), **limits})
        return made

    def usage_of(self, user: User) -> Any:
        """Check that the counters of a user match the ledger; return the usage."""
        assert self.quotas.verify(user).balanced
        return self.quotas.usage(user)

    def holds(self, user: User) -> Any:
        return self.quotas.reservations(user)

    def settle_down(self) -> None:
        """Wait for the background tasks of the client, then settle everything that is pending."""
        if self.loop is not None:
            self.do(self.quotas._backend._tasks.finish(PATIENCE_S))
        assert self.quotas.settle_pending() == 0

    def losing(self) -> Losing:
        """Give the client's guards a runner that fails when the test says so; return the runner."""
        backend = self.quotas._backend
        backend._runner = Losing(backend._runner, is_async=self.loop is not None)
        return backend._runner  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the client and its event loop, or leave its connections to the next one."""
        if self._is_warm:
            WARM.close(self, self.atlas)
            return
        self.do(self.atlas.close())
        super().close()


class Losing:
    """A runner that fails when a test says so: before it runs a plan, or after it, as if the answer were lost."""

    def __init__(self, runner: Any, *, is_async: bool) -> None:
        self._runner = runner
        self._is_async = is_async
        self._before: list[BaseException] = []
        self._after: list[BaseException] = []
        #: The names of the statements that were sent. Plan steps without a statement are not among them.
        self.sent: list[str] = []
        #: A function to call with the name of each statement before it is sent.
        self.watch: Callable[[str], None] | None = None

    def fail(self, times: int = 1, error: BaseException | None = None) -> None:
        """Refuse the next plans that need the database."""
        self._before += [error or DatabaseUnreachable("no connection, says the test")] * times

    def lose(self, times: int = 1) -> None:
        """Run the next plans that need the database, and lose their answers."""
        self._after += [DatabaseUnreachable("no answer, says the test")] * times

    @property
    def wakeups(self) -> Any:
        return self._runner.wakeups

    def run(self, plan: Any) -> Any:
        return self._run_async(plan) if self._is_async else self._run(plan)

    def _watched(self, plan: Any) -> Any:
        """Run the steps of a plan. Fail at its first statement, or after its end, if the test says so."""
        from atlas_sdk._plan import Query

        asked, answer = False, None
        try:
            effect = next(plan)
            while True:
                if isinstance(effect, Query):
                    self.sent.append(effect.statement.name)
                    if self.watch is not None:
                        self.watch(effect.statement.name)
                    if not asked and self._before:
                        raise self._before.pop(0)
                    asked = True
                answer = yield effect
                effect = plan.send(answer)
        except StopIteration as stop:
            if asked and self._after:
                raise self._after.pop(0) from None
            return stop.value
        finally:
            plan.close()

    def _run(self, plan: Any) -> Any:
        return self._runner.run(self._watched(plan))

    async def _run_async(self, plan: Any) -> Any:
        return await self._runner.run(self._watched(plan))


@contextmanager
def locked_row(dsn: str, user: User) -> Iterator[psycopg.Connection[Any]]:
    """Lock the user's quota, so that every operation on it waits. The caller may roll back early."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT 1 FROM user_quotas WHERE user_id = %s FOR UPDATE", (user.id,))
        yield connection
        connection.rollback()


def waiting(dsn: str, statement: str = "") -> list[int]:
    """Return the server processes that wait for a lock and whose statement contains this text."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' AND position(%s IN query) > 0",
            (statement,),
        ).fetchall()
    return [pid for (pid,) in rows]


def terminate(dsn: str, *pids: int) -> None:
    """End these server processes as an administrator does; without ids, end those of all clients."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'atlasengine' AND (%(all)s OR pid = ANY(%(pids)s))",
            {"all": not pids, "pids": list(pids)},
        )


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition. Fail after PATIENCE_S."""
    for _ in locks.polling(PATIENCE_S):
        if condition():
            return
    pytest.fail(f"not within {PATIENCE_S:.0f} s")


def used(client: QuotaClient, user: User) -> tuple[int, Decimal]:
    """Check that a user has nothing reserved; return the tokens and the cost that were charged."""
    usage = client.usage_of(user)
    assert (usage.tokens_held, usage.cost_held, usage.slots_held) == (0, 0, 0)
    assert client.holds(user) == []
    return usage.tokens_used, usage.cost_used


def expire_before(runner: Losing, dsn: str, statement: str, time: int) -> None:
    """Let all reservations expire and be charged just before a statement is sent for the `time`-th time."""
    sent = 0

    def expire(name: str) -> None:
        nonlocal sent
        sent += name == statement
        if name == statement and sent == time:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("UPDATE quota_reservations SET expires_at = now() - interval '1 s'")
                connection.execute("SELECT quota_reclaim(quota_lock(user_id), clock_timestamp()) FROM user_quotas")

    runner.watch = expire
