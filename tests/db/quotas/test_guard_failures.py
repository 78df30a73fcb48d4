"""Guards whose database fails, conflicts or is lost. No usage is free or charged twice, and no result is lost."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import programs
import pytest
from guard_adapter import QuotaClient, expire_before, locked_row, terminate, until, used, waiting
from patience import PATIENCE_S

from atlas_sdk import Atlas, DatabaseError, DatabaseUnreachable, InvalidInput, StorageFull, TransactionConflict


def test_a_broken_connection_is_not_noticed(client: QuotaClient, dsn: str) -> None:
    user = client.user()
    with client.guard(user, tokens=400) as g:
        terminate(dsn)
        g.settle(tokens=100)
    assert g.settlement.tokens == 100
    assert used(client, user)[0] == 100


@pytest.mark.parametrize("end", ["enter", "exit"])
def test_a_connection_that_breaks_in_a_statement_is_replaced(client: QuotaClient, dsn: str, end: str) -> None:
    user = client.user()
    guard = client.quotas.guard(user, tokens=400)
    entered, leave = threading.Event(), threading.Event()

    def call() -> None:
        with client.entered(guard) as g:
            entered.set()
            assert leave.wait(PATIENCE_S)
            g.settle(tokens=100)

    with ThreadPoolExecutor(1) as thread:
        if end == "enter":
            leave.set()
            with locked_row(dsn, user):
                called = thread.submit(call)
                until(lambda: waiting(dsn))
                terminate(dsn, *waiting(dsn))
        else:
            called = thread.submit(call)
            assert entered.wait(PATIENCE_S)
            with locked_row(dsn, user):
                leave.set()
                until(lambda: waiting(dsn))
                terminate(dsn, *waiting(dsn))
        called.result(PATIENCE_S)
    assert guard.settlement.outcome == "settled"
    assert not guard.repeated
    assert used(client, user)[0] == 100


def test_an_answer_that_is_lost_is_asked_for_again(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    losing.lose()
    with client.guard(user, tokens=400) as g:
        assert not g.repeated, "it was its own first try"
        assert len(client.holds(user)) == 1
        losing.lose()
        g.settle(tokens=100)
    assert g.settlement.outcome == "repeated"
    assert losing.sent == ["quotas.reserve", "quotas.reserve", "quotas.settle", "quotas.settle"]
    assert used(client, user)[0] == 100
    assert client.usage_of(user).requests_last_hour == 1


def test_a_first_try_that_expired_unheard_of_is_made_anew(client: QuotaClient, dsn: str) -> None:
    user = client.user()
    losing = client.losing()
    losing.lose()
    expire_before(losing, dsn, "quotas.reserve", 2)
    with client.guard(user, tokens=400) as g:
        g.settle(tokens=100)
    assert losing.sent == ["quotas.reserve", "quotas.reserve", "quotas.settle", "quotas.reserve", "quotas.settle"]
    assert used(client, user)[0] == 100
    assert client.quotas.verify().balanced


def test_a_conflict_is_tried_again_once(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    losing.fail(1, TransactionConflict("another was in the way"))
    with client.guard(user, tokens=400) as g:
        losing.fail(1, TransactionConflict("another was in the way"))
        g.settle(tokens=100)
    assert losing.sent == ["quotas.reserve", "quotas.reserve", "quotas.settle", "quotas.settle"]
    assert used(client, user)[0] == 100


def test_who_waited_in_vain_does_not_wait_again(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    times = iter([0.0, 3.9, 0.0, 4.1])
    client.quotas._backend._clock = client.quotas._backend.outbox._clock = lambda: next(times, 5.0)
    losing.fail(1)
    guard = client.quotas.guard(user, tokens=400)
    with client.entered(guard) as g:
        losing.fail(1)
        g.settle(tokens=100)
    assert guard.settlement is None
    assert losing.sent == ["quotas.reserve", "quotas.reserve", "quotas.settle"]
    client.settle_down()
    assert used(client, user)[0] == 100


def test_growing_is_not_tried_again_where_it_might_grow_twice(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    with client.guard(user, tokens=400) as g:
        losing.lose()
        with pytest.raises(DatabaseUnreachable):
            client.do(g.extend(tokens=100))
        assert client.holds(user)[0].tokens == 500
        losing.lose()
        client.do(g.extend(ttl=timedelta(hours=3)))
        losing.fail(1, TransactionConflict("another was in the way"))
        client.do(g.extend(tokens=100))
        assert client.holds(user)[0].tokens == 600
        g.settle(tokens=1)
    assert used(client, user)[0] == 1


def test_without_a_database_nothing_is_entered_and_nothing_stays_reserved(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    losing.lose(2)
    with pytest.raises(DatabaseUnreachable), client.guard(user, tokens=400):
        pytest.fail("it was entered")
    # Both tries reached the database, and only the answers were lost.
    assert len(client.holds(user)) == 1
    client.settle_down()
    assert used(client, user)[0] == 0


def test_what_an_earlier_try_of_a_key_holds_is_not_given_back(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    losing.lose(2)
    with pytest.raises(DatabaseUnreachable), client.guard(user, tokens=400, idempotency_key="k"):
        pytest.fail("it was entered")
    client.settle_down()
    with client.guard(user, tokens=400, idempotency_key="k") as g:
        assert g.repeated
        g.settle(tokens=2)
    assert used(client, user)[0] == 2


@pytest.mark.parametrize("error", [DatabaseUnreachable("gone"), StorageFull("full"), TransactionConflict("busy")])
def test_a_settlement_that_cannot_be_written_is_kept_and_written_at_the_next_exit(
    client: QuotaClient, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    user = client.user(tokens=1000)
    losing = client.losing()
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"), client.guard(user, tokens=400) as lost:
        losing.fail(2, error)
        lost.settle(tokens=123, cost="0.5", meta={"secret": "value"})
    assert lost.settlement is None
    assert client.usage_of(user).tokens_held == 400, "what is not settled stays reserved"
    assert f"settlement of reservation {lost.id} is kept for later" in caplog.text
    assert "123" not in caplog.text.replace(str(lost.id), "")
    assert "secret" not in caplog.text
    losing._before.clear()
    with client.guard(user, tokens=10) as g:
        g.settle(tokens=1)
    client.settle_down()
    assert used(client, user) == (124, Decimal("0.5"))
    assert losing.sent.count("quotas.settle") == (3 if isinstance(error, StorageFull) else 4)


def test_an_exception_of_the_body_is_not_replaced_by_one_of_the_settlement(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    problem = RuntimeError("the model is gone")
    with pytest.raises(RuntimeError) as caught, client.guard(user, tokens=4):
        losing.fail(2, InvalidInput("says the test", field="x"))
        raise problem
    assert caught.value is problem
    losing._before.clear()
    with pytest.raises(InvalidInput, match="says the test"), client.guard(user, tokens=4):
        losing.fail(2, InvalidInput("says the test", field="x"))


def test_what_was_kept_is_written_in_turn_and_stops_at_the_first_that_fails(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    for number in range(1, 13):
        with client.guard(user, tokens=400) as g:
            losing.fail(2)
            g.settle(tokens=number)
    losing._before.clear()
    losing.sent.clear()
    losing.fail(1)
    assert client.quotas.settle_pending() == 12
    assert losing.sent == ["quotas.settle"]
    with client.guard(user, tokens=1) as g:
        g.settle(tokens=100)
    if client.kind == "asyncio":
        client.do(client.quotas._backend._tasks.finish(PATIENCE_S))
    assert len(client.holds(user)) == 4, "one exit does not pay for all"
    client.settle_down()
    assert used(client, user)[0] == 100 + sum(range(1, 13))


def test_one_that_the_database_refuses_does_not_keep_the_others_waiting(client: QuotaClient) -> None:
    user = client.user()
    losing = client.losing()
    for number in (1, 2, 4):
        with client.guard(user, tokens=400) as g:
            losing.fail(2)
            g.settle(tokens=number)
    losing.fail(1, DatabaseError("it does not like the first"))
    assert client.quotas.settle_pending() == 1
    assert client.usage_of(user).tokens_used == 6
    client.settle_down()
    assert used(client, user)[0] == 7


def test_a_client_settles_what_it_kept_before_it_closes(client: QuotaClient, dsn: str) -> None:
    user = client.user()
    losing = client.losing()
    with client.guard(user, tokens=400) as g:
        losing.fail(2)
        g.settle(tokens=5)
    losing._before.clear()
    client.do(client.atlas.close())
    client.do(client.atlas.close())
    with Atlas.open(dsn) as other:
        assert other.quotas.usage(user).tokens_used == 5
        assert other.quotas.reservations(user) == []


def test_a_client_settles_its_leases_before_it_closes(client: QuotaClient, dsn: str) -> None:
    user = client.user()
    call = client.do(client.quotas.lease(user, tokens=4000, requests=10).reserve(400))
    call.settle(7)
    running = client.do(client.quotas.lease(user, tokens=4000, requests=10).reserve(400))
    assert client.usage_of(user).tokens_held == 8000
    client.do(client.atlas.close())
    with Atlas.open(dsn) as other:
        assert other.quotas.reservations(user) == []
        # The usage of the second call is no longer reported, so its whole reservation is charged.
        assert other.quotas.usage(user).tokens_used == 7 + running.tokens
        assert other.quotas.verify(user).balanced


def test_a_client_that_closes_without_a_database_says_what_it_leaves(
    client: QuotaClient, caplog: pytest.LogCaptureFixture
) -> None:
    user = client.user()
    losing = client.losing()
    with client.guard(user, tokens=400) as g:
        losing.fail(3)
        g.settle(tokens=5)
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"):
        client.do(client.atlas.close())
    assert f"reservation {g.id} is left to its expiry" in caplog.text


def test_a_user_who_was_deleted_meanwhile_owes_nothing(
    client: QuotaClient, quota_sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    user = client.user()
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"), client.guard(user, tokens=4) as g:
        quota_sql.connection.execute("DELETE FROM users WHERE id = %s", (user.id,))
        g.settle(tokens=1)
    assert g.settlement is None
    assert "does not exist" in caplog.text


def test_interrupted_while_it_waits_a_guard_reserves_nothing(dsn: str) -> None:
    code = """
import sys
from atlas_sdk import Atlas
with Atlas.open(sys.argv[1]) as atlas:
    user = atlas.users.by_email("interrupted@example.com")
    print("ready", flush=True)
    with atlas.quotas.guard(user, tokens=400):
        print("entered", flush=True)
"""
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("interrupted@example.com")
        with (
            programs.Popen(
                [sys.executable, "-c", code, dsn], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process,
            locked_row(dsn, user) as lock,
        ):
            until(lambda: waiting(dsn, "reserve"))
            process.send_signal(signal.SIGINT)
            # The statement is cancelled, but the release waits for the same lock.
            until(lambda: waiting(dsn, "release"))
            lock.rollback()
            out, err = process.communicate(timeout=PATIENCE_S)
        assert out == "ready\n"
        assert err.endswith("KeyboardInterrupt\n")
        assert atlas.quotas.reservations(user) == []
        assert atlas.quotas.verify(user).balanced
