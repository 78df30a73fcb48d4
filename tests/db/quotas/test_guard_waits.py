"""Guards and slots that wait for their turn instead of being refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from guard_adapter import QuotaClient, until, used
from patience import PATIENCE_S

from atlas_sdk import Atlas, InvalidInput, User
from atlas_sdk.errors import AlreadyExists, QuotaExceeded
from atlas_sdk.guards import waiting

LONG = timedelta(seconds=2 * PATIENCE_S)


def waiters(dsn: str, user: User) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        (found,) = connection.execute("SELECT count(*) FROM quota_waiters WHERE user_id = %s", (user.id,)).fetchone()  # type: ignore[misc]
    return int(found)


def is_notified(dsn: str, user: User) -> bool:
    """Return whether a call of the user waits for notifications: it asks a second time when it begins to listen."""
    renewed = "SELECT FROM quota_waiters WHERE user_id = %s AND alive_until > waits_since + interval '15 s'"
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(renewed, (user.id,)).fetchone() is not None


@contextmanager
def once_waiting(dsn: str, user: User, action: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as a call of the user waits for notifications, while the block runs."""

    def act() -> None:
        until(lambda: is_notified(dsn, user))
        action()

    with ThreadPoolExecutor(1) as threads:
        done: Future[None] = threads.submit(act)
        yield
        done.result()


@pytest.fixture
def other(dsn: str) -> Iterator[Atlas]:
    """Yield a client of another process, as far as the database can tell."""
    with Atlas.open(dsn) as opened:
        yield opened


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let calls ask again only when they are notified, or at their deadline. Check that they do not need that."""
    for name in ("_FIRST_S", "_LONGEST_S", "_RENEWED_S"):
        monkeypatch.setattr(waiting, name, 2 * PATIENCE_S)
    began = time.monotonic()
    yield
    assert time.monotonic() - began < PATIENCE_S, "no notification came"


@pytest.mark.usefixtures("no_polling")
def test_a_settlement_ends_a_wait(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)
    with (
        once_waiting(dsn, user, lambda: other.quotas.settle(user, held.id, tokens=30)),
        client.guard(user, tokens=70, wait=LONG) as g,
    ):
        assert g.tokens == 70
    assert used(client, user)[0] == 100
    assert waiters(dsn, user) == 0


@pytest.mark.usefixtures("no_polling")
def test_a_top_up_ends_a_wait(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    other.quotas.add_tokens(user, 100)
    with (
        once_waiting(dsn, user, lambda: other.quotas.grant(user, tokens=50)),
        client.guard(user, tokens=50, wait=LONG),
    ):
        pass
    assert used(client, user)[0] == 150


@pytest.mark.usefixtures("no_polling")
def test_a_free_slot_ends_a_wait(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(containers=1)
    first = other.quotas.slot(user, ttl=LONG).__enter__()
    with (
        once_waiting(dsn, user, lambda: first.__exit__(None, None, None)),
        client.entered(client.quotas.slot(user, ttl=LONG, wait=LONG)) as slot,
    ):
        assert not slot.lost
        assert slot.epoch > first.epoch


def test_the_deadline_raises_the_last_refusal(client: QuotaClient, dsn: str) -> None:
    user = client.user(tokens=100)
    with client.guard(user, tokens=90) as first:
        with (
            pytest.raises(
                QuotaExceeded, match=r"^after a wait of 1 s, the tokens limit of 100 leaves 10, and 20"
            ) as end,
            client.guard(user, tokens=20, wait=timedelta(seconds=0.3)),
        ):
            raise AssertionError("nothing came free")
        assert end.value.waited is not None
        assert timedelta(seconds=0.3) <= end.value.waited
        assert waiters(dsn, user) == 0
        first.settle(tokens=0)


def test_a_refusal_that_no_wait_can_change_comes_at_once(client: QuotaClient, dsn: str) -> None:
    user = client.user(tokens=100, requests_per_hour=1)
    with pytest.raises(QuotaExceeded) as refused, client.guard(user, tokens=101, wait=LONG):
        raise AssertionError("more than the limit")
    assert (refused.value.dimension, refused.value.waited) == ("tokens", None)
    client.quotas.hit(user)
    with pytest.raises(QuotaExceeded) as refused, client.guard(user, tokens=1, wait=LONG):
        raise AssertionError("the hour is longer than the wait")
    assert (refused.value.dimension, refused.value.waited) == ("requests", None)
    assert waiters(dsn, user) == 0


def test_an_expiry_is_noticed_by_the_clock(client: QuotaClient, other: Atlas) -> None:
    user = client.user(containers=1)
    other.quotas.reserve(user, slots=1, requests=0, ttl=timedelta(seconds=0.5))
    with client.entered(client.quotas.slot(user, wait=LONG)):
        pass
    assert used(client, user) == (0, 0)


def test_elastic_grants_start_as_soon_as_the_least_fits(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)
    with (
        once_waiting(dsn, user, lambda: other.quotas.settle(user, held.id, tokens=60)),
        client.guard(user, tokens=100, min_tokens=30, wait=LONG) as g,
    ):
        assert g.tokens == 40


def test_idle_blocks_of_the_same_client_come_back(client: QuotaClient) -> None:
    user = client.user(tokens=100)
    lease = client.quotas.lease(user, tokens=1000, idle_s=PATIENCE_S)
    call = client.do(lease.reserve(10))
    call.settle(10)
    with client.guard(user, tokens=90, wait=LONG) as g:
        assert g.tokens == 90


def test_guards_that_would_use_a_lease_wait_too(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)
    with (
        once_waiting(dsn, user, lambda: other.quotas.release(user, held.id)),
        client.guard(user, tokens=100, lease=True, wait=LONG),
    ):
        pass


def test_decorated_functions_wait(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)
    guard = client.quotas.guard(user, tokens=100, wait=LONG)

    async def awaited() -> str:
        return "done"

    function = guard(awaited if client.kind == "asyncio" else lambda: "done")
    with once_waiting(dsn, user, lambda: other.quotas.release(user, held.id)):
        assert client.do(function()) == "done"


def test_a_key_waits_once(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)
    with (
        once_waiting(dsn, user, lambda: other.quotas.release(user, held.id)),
        client.guard(user, tokens=60, idempotency_key="one", wait=LONG) as g,
    ):
        assert not g.repeated
        with other.quotas.guard(user, tokens=60, idempotency_key="one", wait=LONG) as again:
            assert (again.repeated, again.id) == (True, g.id)
    with pytest.raises(AlreadyExists), client.guard(user, tokens=60, idempotency_key="one", wait=LONG):
        raise AssertionError("it has ended")
    assert waiters(dsn, user) == 0


def test_a_lost_listener_means_polling(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)

    def cut() -> None:
        listens = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        with psycopg.connect(dsn, autocommit=True) as connection:
            until(lambda: connection.execute(listens).fetchall())
            connection.execute(f"SELECT pg_terminate_backend(pid, 20000) FROM ({listens}) AS found")
        other.quotas.release(user, held.id)

    with once_waiting(dsn, user, cut), client.guard(user, tokens=100, wait=LONG):
        pass


def test_a_closing_client_ends_its_waits(dsn: str, other: Atlas) -> None:
    with Atlas.open(dsn) as atlas, ThreadPoolExecutor(1) as threads:
        user = atlas.users.create("closing@example.com")
        atlas.quotas.set_limits(user, tokens=100)
        other.quotas.reserve(user, tokens=100)
        waits = threads.submit(atlas.quotas.guard(user, tokens=1, wait=LONG).__enter__)
        until(lambda: waiters(dsn, user) == 1)
        atlas.close()
        with pytest.raises(InvalidInput, match="closed"):
            waits.result(PATIENCE_S)
        assert waiters(dsn, user) == 0


def test_waits_of_one_user_do_not_touch_another(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user, free = client.user(tokens=100), client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)

    def others() -> None:
        with other.quotas.guard(free, tokens=100, wait=LONG):
            pass
        other.quotas.release(user, held.id)

    with once_waiting(dsn, user, others), client.guard(user, tokens=100, wait=LONG):
        pass


def test_a_tenant_can_wait(client: QuotaClient, other: Atlas, dsn: str) -> None:
    user = client.user(tokens=100)
    held = other.quotas.reserve(user, tokens=100)
    tenant: Any = client.atlas.as_user(user)
    with (
        once_waiting(dsn, user, lambda: other.quotas.release(user, held.id)),
        client.entered(tenant.quotas.guard(user, tokens=100, wait=LONG)),
    ):
        pass
