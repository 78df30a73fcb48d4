"""An acknowledged reservation survives every crash. If a crash loses a settlement, the reservation stays."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import define, field
from embedded_homes import embedded_server
from guard_adapter import until
from mutants import mutated, source
from patience import PATIENCE_S
from quota_sql import QuotaSql

from atlas_sdk import Atlas, DatabaseUnreachable, QuotaExceeded, User
from atlas_sdk._embedded import EmbeddedServer

CALLERS = 6
#: The number of answers after which the server is killed.
ENOUGH = 150

#: Mutants without the step that makes a reservation durable: for calls in quick succession, and for others.
BUSY = ("PERFORM pg_logical_emit_message(true, 'atlas', '');", "NULL;")
CALM = ("COMMIT;\n        RETURN;", "SET LOCAL synchronous_commit = off;\n        COMMIT;\n        RETURN;")
FORGETFUL = {
    ("quota_call_reserve", True): BUSY,
    ("quota_call_reserve", False): CALM,
    ("quota_call_hit", True): BUSY,
    ("quota_call_hit", False): CALM,
}


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedServer]:
    """Yield a server that a test may kill. It writes its log almost only when a commit waits for that."""
    with embedded_server() as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("ALTER SYSTEM SET checkpoint_timeout = '1h'")
            connection.execute("SELECT pg_reload_conf()")
            # With a higher level the server writes a record for standbys every 15 seconds, without a commit that waits
            # for it.
            assert connection.execute("SHOW wal_level").fetchone() == ("minimal",)
        yield server


def new_user(atlas: Atlas, **limits: Any) -> User:
    user = atlas.users.create(f"{uuid.uuid4().hex}@example.com")
    names = ("tokens", "cost", "containers", "requests_per_hour", "builds_per_day")
    atlas.quotas.set_limits(user, **{**dict.fromkeys(names), **limits})
    return user


# The log is on the disk before the answer.

CALLS = {
    "quota_call_reserve": lambda atlas, user: atlas.quotas.reserve(user, tokens=1),
    "quota_call_hit": lambda atlas, user: atlas.quotas.hit(user),
    "quota_lease": lambda atlas, user: atlas.quotas.lease_block(user, tokens=1, requests=1),
}


#: True if the log has a record that is not on the disk. If the last record ends at the end of its page, the place for
#: the next one is after the header of the new page: 24 bytes further, or 40 in a new segment. A record has 24 or more.
UNFLUSHED = """
SELECT inserted > flushed AND NOT ((flushed - '0/0') % current_setting('wal_block_size')::integer = 0
                                   AND inserted - flushed <= 40)
FROM (SELECT pg_current_wal_flush_lsn() AS flushed, pg_current_wal_insert_lsn() AS inserted) AS log
"""


def answers_before_the_disk(server: EmbeddedServer, call: Any, *, busy: bool = True) -> int:
    """Return how many of 30 answers came before the log was on the disk. With `busy` False, the row seems unused."""
    with Atlas.open(server.dsn) as atlas, psycopg.connect(server.dsn, autocommit=True) as watcher:
        user = new_user(atlas)
        # The first call of a minute rotates the cells of the sliding hour, and does not take the short cut.
        call(atlas, user)
        # The first reader of a row marks it as committed on its page, which also writes to the log. Do it now.
        watcher.execute("VACUUM FREEZE")
        call(atlas, user)
        early = 0
        for _ in range(30):
            # Switch off the trigger, which would set `updated_at` to now.
            watcher.execute("SET session_replication_role = replica")
            watcher.execute(
                "UPDATE user_quotas SET updated_at = now() + %s WHERE user_id = %s",
                (timedelta(hours=1 if busy else -1), user.id),
            )
            call(atlas, user)
            row = watcher.execute(UNFLUSHED).fetchone()
            assert row is not None
            early += row[0]
        return early


def test_end_of_a_page_of_the_log_is_no_record(own_server: EmbeddedServer) -> None:
    """Fill pages of the log to their last byte. Then all is flushed, although the two positions differ."""
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        # Marks on pages are records too, so write them now.
        connection.execute("VACUUM FREEZE")
        connection.execute(UNFLUSHED)
        connection.execute("SELECT pg_logical_emit_message(true, 'atlas', '')")
        ends = 0
        # The length of every record is a multiple of 8 bytes, and each is flushed. So some page is filled to its end.
        for length in itertools.cycle(range(0, 512, 8)):
            connection.execute("SELECT pg_logical_emit_message(true, 'atlas', repeat('x', %s))", [length])
            row = connection.execute(
                "SELECT flushed < inserted, (flushed - '0/0') % 8192 = 0"
                " FROM (SELECT pg_current_wal_flush_lsn() AS flushed, pg_current_wal_insert_lsn() AS inserted) AS log"
            ).fetchone()
            if row == (True, True):
                assert connection.execute(UNFLUSHED).fetchone() == (False,)
                ends += 1
            if ends == 3:
                break
        # A record after the end of a page is noticed. This one does not wait for the disk.
        connection.execute("SET synchronous_commit = off")
        connection.execute("SELECT pg_logical_emit_message(true, 'atlas', '')")
        assert connection.execute(UNFLUSHED).fetchone() == (True,)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "calm"])
@pytest.mark.parametrize("call", CALLS)
def test_log_is_on_the_disk_before_the_answer(own_server: EmbeddedServer, call: str, *, busy: bool) -> None:
    assert answers_before_the_disk(own_server, CALLS[call], busy=busy) == 0


@pytest.mark.parametrize(("call", "busy"), FORGETFUL)
def test_answer_without_a_wait_is_noticed(own_server: EmbeddedServer, call: str, *, busy: bool) -> None:
    with (
        psycopg.connect(own_server.dsn, autocommit=True) as connection,
        mutated(connection, call, FORGETFUL[call, busy]),
    ):
        assert answers_before_the_disk(own_server, CALLS[call], busy=busy) > 0


def test_settlement_does_not_wait_for_the_disk(own_server: EmbeddedServer) -> None:
    """A settlement need not wait, because the reservation stays if the settlement is lost."""

    def pair(atlas: Atlas, user: User) -> None:
        atlas.quotas.settle(user, atlas.quotas.reserve(user, tokens=2).id, tokens=1)

    assert answers_before_the_disk(own_server, pair) > 0


# A server that is killed.


@define
class Told:
    """The answers to clients, and the usage of their calls."""

    reserved: dict[uuid.UUID, int] = field(factory=dict)
    #: The real usage; for an interrupted call, the whole reservation.
    used: dict[uuid.UUID, int] = field(factory=dict)
    enough: threading.Event = field(factory=threading.Event)


def spend(atlas: Atlas, user: User, told: Told, seed: int) -> None:
    """Reserve and settle until the limit is reached or the server has ended."""
    dice = random.Random(seed)
    with suppress(DatabaseUnreachable, QuotaExceeded):
        while True:
            held = atlas.quotas.reserve(user, tokens=50, min_tokens=1)
            told.reserved[held.id] = told.used[held.id] = held.tokens
            if len(told.reserved) >= ENOUGH:
                told.enough.set()
            if dice.random() < 0.2:
                continue
            told.used[held.id] = dice.randint(0, held.tokens)
            atlas.quotas.settle(user, held.id, tokens=told.used[held.id])


def crash(server: EmbeddedServer, by: signal.Signals) -> tuple[User, Told, int]:
    """Kill the server while threads reserve and settle, and start it again; return user, answers and limit."""
    limit = ENOUGH * 45
    told = Told()
    with Atlas.open(server.dsn, connect_timeout_s=1) as atlas, ThreadPoolExecutor(CALLERS) as threads:
        user = new_user(atlas, tokens=limit)
        running = [threads.submit(spend, atlas, user, told, seed) for seed in range(CALLERS)]
        assert told.enough.wait(PATIENCE_S)
        pid = int((server.data_dir / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, by)
        until(lambda: not Path(f"/proc/{pid}").exists())
        for future in running:
            future.result()
    server.ensure_running()
    return user, told, limit


def known(quota_sql: QuotaSql, user: User) -> set[uuid.UUID]:
    """Return the reservations that the database has, held or charged."""
    rows = quota_sql.connection.execute(
        "SELECT id FROM quota_reservations WHERE user_id = %(u)s"
        " UNION SELECT reservation_id FROM usage_ledger WHERE user_id = %(u)s",
        {"u": user.id},
    )
    return {row["id"] for row in rows}


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGQUIT])
def test_server_that_is_killed_forgets_no_promise(own_server: EmbeddedServer, by: signal.Signals) -> None:
    user, told, limit = crash(own_server, by)
    quota_sql = QuotaSql(own_server.dsn)
    assert set(told.reserved) <= known(quota_sql, user)
    charged = {
        row["reservation_id"]: row["amount"]
        for row in quota_sql.connection.execute(
            "SELECT reservation_id, amount FROM usage_ledger WHERE user_id = %s", (user.id,)
        )
    }
    # Each charge is the real usage. Where a settlement was lost, the reservation is still there.
    assert {key: told.used[key] for key in charged if key in told.used} == {
        key: amount for key, amount in charged.items() if key in told.used
    }
    quota = quota_sql.quota(user.id)
    assert quota.tokens_used + quota.tokens_held <= limit
    quota_sql.balance(user.id)
    with Atlas.open(own_server.dsn) as atlas:
        # Spend all that is left. Only granted tokens may be counted.
        spend(atlas, user, told, 99)
        assert sum(told.used.values()) <= limit
        for hold in atlas.quotas.reservations(user):
            atlas.quotas.settle(user, hold.id, tokens=told.used.get(hold.id))
        assert sum(told.used.values()) <= atlas.quotas.usage(user).tokens_used <= limit
    quota_sql.balance(user.id)
    quota_sql.connection.close()


def test_promise_that_does_not_wait_for_the_disk_is_forgotten(own_server: EmbeddedServer) -> None:
    """Without the wait for the disk, the same crash loses reservations, so the test above can fail."""
    # Use one connection before the crash and another one after it, because the server is killed.
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        whole = source(connection, "quota_call_reserve")
        forgetful = whole
        for before, after in (BUSY, CALM):
            assert before in forgetful
            forgetful = forgetful.replace(before, after)
        connection.execute(forgetful)  # type: ignore[call-overload]
    user, told, _ = crash(own_server, signal.SIGKILL)
    quota_sql = QuotaSql(own_server.dsn)
    quota_sql.connection.execute(whole)  # type: ignore[call-overload]
    assert set(told.reserved) - known(quota_sql, user)
    quota_sql.balance(user.id)
    quota_sql.connection.close()
