"""Callers that race: the limits hold, and the second caller sees the changes of the first."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from mutants import mutated
from patience import PATIENCE_S
from quota_sql import QuotaSql

CALLERS = 16


# Never over the limit.

LIMIT = 20_000


def race(dsn: str, user_id: uuid.UUID, call: Callable[[QuotaSql, random.Random], bool]) -> int:
    """Let 16 callers repeat a call until it returns False; return the highest sum of used and held tokens."""
    peak = 0

    def caller(seed: int) -> None:
        own = QuotaSql(dsn)
        dice = random.Random(seed)
        while call(own, dice):
            pass
        own.connection.close()

    watcher = QuotaSql(dsn)
    with ThreadPoolExecutor(CALLERS) as threads:
        running = [threads.submit(caller, seed) for seed in range(CALLERS)]
        while not all(future.done() for future in running):
            quota = watcher.quota(user_id)
            peak = max(peak, quota.tokens_used + quota.tokens_held)
        for future in running:
            future.result()
    quota = watcher.quota(user_id)
    watcher.connection.close()
    return max(peak, quota.tokens_used + quota.tokens_held)


@pytest.mark.every_server
def test_callers_that_race_never_exceed_a_limit(dsn: str, quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=LIMIT, cost_limit=1000)

    def call(own: QuotaSql, dice: random.Random) -> bool:
        granted = own.reserve(user_id, 200, min_tokens=10, cost="0.1", requests=1)
        if not granted.granted:
            return False
        assert 10 <= granted.tokens <= 200
        if dice.random() < 0.1:
            own.release(user_id, granted.id)
        elif dice.random() < 0.1:
            # Give everything back, and reserve a block.
            own.settle(user_id, granted.id, 0, 0)
            block = own.lease(user_id, 500, cost="0.2", holder=str(dice.random()))
            if block.granted:
                own.settle(user_id, block.id, dice.randint(0, block.tokens), "0.05")
        else:
            own.settle(user_id, granted.id, dice.randint(granted.tokens // 2, granted.tokens), "0.05")
        return True

    peak = race(dsn, user_id, call)
    quota = quota_sql.quota(user_id)
    assert peak <= LIMIT
    assert quota.tokens_held == quota.cost_held == 0
    # A caller may give up while others hold tokens. The last caller takes the rest.
    assert LIMIT - 10 < quota.tokens_used <= LIMIT
    assert sum(amount for _, amount, _ in quota_sql.ledger(user_id)) == quota.tokens_used
    quota_sql.balance(user_id)


def test_checking_and_then_updating_exceeds_it(dsn: str, quota_sql: QuotaSql) -> None:
    """The naive pair "check, then update" exceeds the limit in the same race, so the test above can fail."""
    user_id = quota_sql.user(tokens_limit=LIMIT)
    all_have_checked = threading.Barrier(CALLERS)
    quota_sql.change(user_id, tokens_used=LIMIT - 500)

    def call(own: QuotaSql, dice: random.Random) -> bool:
        quota = own.quota(user_id)
        if quota.tokens_used + 500 > LIMIT:
            return False
        all_have_checked.wait(PATIENCE_S)
        own.connection.execute("UPDATE user_quotas SET tokens_used = tokens_used + 500 WHERE user_id = %s", (user_id,))
        return True

    assert race(dsn, user_id, call) == LIMIT + 500 * (CALLERS - 1)
    # Delete the user, whose counters do not match the ledger.
    quota_sql.connection.execute("DELETE FROM users WHERE id = %s", (user_id,))


@pytest.mark.every_server
def test_many_callers_at_the_end_of_a_period_close_it_once(dsn: str, quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=80)
    quota_sql.reserve(user_id, 80)
    quota_sql.end_period(user_id)

    def call(_: int) -> bool:
        own = QuotaSql(dsn)
        granted = own.reserve(user_id, 10).granted
        own.connection.close()
        return granted

    with ThreadPoolExecutor(CALLERS) as threads:
        assert sum(threads.map(call, range(CALLERS))) == 8
    assert quota_sql.value("SELECT count(*) FROM quota_history WHERE user_id = %s", user_id) == 1
    assert quota_sql.quota(user_id).tokens_held == 80
    quota_sql.balance(user_id)


# Two connections, in a chosen order.


@contextmanager
def waiting(
    dsn: str, quota_sql: QuotaSql, call: Callable[[QuotaSql], Any], then: Callable[[], None] = lambda: None
) -> Iterator[Any]:
    """Start a call on another connection while this one has locked the row, then call `then`.

    At the end of the context the call has returned.
    """
    with QuotaSql(dsn) as other, QuotaSql(dsn) as watcher:
        pid = other.connection.info.backend_pid
        answer = SimpleNamespace()
        thread = threading.Thread(target=lambda: setattr(answer, "value", call(other)))
        with quota_sql.connection.transaction():
            yield SimpleNamespace(start=thread.start, answer=answer)
            thread.start()
            while not watcher.value("SELECT pg_blocking_pids(%s) <> '{}'", pid):
                assert thread.is_alive(), "the second call did not wait for the first"
            then()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


CALLS: dict[str, Callable[[QuotaSql, uuid.UUID, uuid.UUID], Any]] = {
    "reserve": lambda quota_sql, user_id, key: quota_sql.reserve(user_id, 60),
    "settle": lambda quota_sql, user_id, key: quota_sql.settle(user_id, key, 10, 0),
    "release": lambda quota_sql, user_id, key: quota_sql.release(user_id, key),
    "extend": lambda quota_sql, user_id, key: quota_sql.extend(user_id, key, 40),
}
#: Checks of the answer to the second call, with a limit of 100 and a reservation of 50.
SECOND = {
    ("reserve", "reserve"): lambda answer: answer.dimension == "tokens",
    ("reserve", "settle"): lambda answer: answer.outcome == "settled",
    ("reserve", "release"): lambda answer: answer.outcome == "released",
    ("reserve", "extend"): lambda answer: answer.granted,
    ("settle", "reserve"): lambda answer: answer.granted,
    ("settle", "settle"): lambda answer: answer.outcome == "repeated",
    ("settle", "release"): lambda answer: answer.outcome == "repeated",
    ("settle", "extend"): lambda answer: answer.state == "settled" and not answer.granted,
    ("release", "reserve"): lambda answer: answer.granted,
    ("release", "settle"): lambda answer: answer.outcome == "corrected",
    ("release", "release"): lambda answer: answer.outcome == "repeated",
    ("release", "extend"): lambda answer: answer.state == "released" and not answer.granted,
    ("extend", "reserve"): lambda answer: answer.dimension == "tokens",
    ("extend", "settle"): lambda answer: answer.outcome == "settled",
    ("extend", "release"): lambda answer: answer.outcome == "released",
    ("extend", "extend"): lambda answer: answer.dimension == "tokens",
}


@pytest.mark.every_server
@pytest.mark.parametrize(("first", "second"), SECOND)
def test_second_caller_waits_and_sees_what_the_first_did(
    dsn: str, quota_sql: QuotaSql, first: str, second: str
) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    key = quota_sql.reserve(user_id, 50).id
    if (first, second) == ("reserve", "reserve"):
        quota_sql.release(user_id, key)
    with waiting(dsn, quota_sql, lambda other: CALLS[second](other, user_id, key)) as race_of_two:
        CALLS[first](quota_sql, user_id, key)
    assert SECOND[first, second](race_of_two.answer.value)
    quota = quota_sql.quota(user_id)
    assert quota.tokens_used + quota.tokens_held <= 100
    quota_sql.balance(user_id)


#: Every function that locks the user's row, with short cuts and long ways. The limit is 100; a reservation has 50 and a
#: block has 20.
OPERATIONS: dict[str, Callable[[QuotaSql, Any], Any]] = {
    "reserve": lambda quota_sql, one: quota_sql.reserve(one.user_id, 40, requests=1),
    "reserve again": lambda quota_sql, one: quota_sql.reserve(one.user_id, 40, key=one.fresh),
    "settle": lambda quota_sql, one: quota_sql.settle(one.user_id, one.hold, 10, 0),
    "settle unknown": lambda quota_sql, one: quota_sql.settle(one.user_id, one.hold),
    "settle more": lambda quota_sql, one: quota_sql.settle(one.user_id, one.hold, 60, 0),
    "settle block": lambda quota_sql, one: quota_sql.settle(one.user_id, one.block, 5, 0, requests=1),
    "release": lambda quota_sql, one: quota_sql.release(one.user_id, one.hold),
    "extend": lambda quota_sql, one: quota_sql.extend(one.user_id, one.hold, 15),
    "lease": lambda quota_sql, one: quota_sql.lease(one.user_id, 60, min_tokens=25, requests=2, min_requests=1),
    "hit": lambda quota_sql, one: quota_sql.hit(one.user_id),
    "grant": lambda quota_sql, one: quota_sql.grant(one.user_id, 50, key=one.fresh),
    "apply plan": lambda quota_sql, one: quota_sql.apply_plan(one.user_id),
    "add": lambda quota_sql, one: quota_sql.add(one.user_id, 25, key=one.fresh),
}
PROGRESS: dict[str, Callable[[QuotaSql, Any], Any]] = {
    "progress": lambda quota_sql, one: quota_sql.progress(one.user_id, one.hold, 30)
}
PAIRS = [
    *((first, second) for first in OPERATIONS for second in OPERATIONS),
    # `progress` locks only the reservation.
    *(("progress", second) for second in ("settle", "settle unknown", "settle more", "release", "extend")),
    *((first, "progress") for first in ("settle", "settle more", "release", "extend")),
]
#: Names of values that differ from run to run.
PASSING = {"id", "user_id", "expires_at", "resets_at", "retry_after", "lasts", "created_at", "updated_at"}
PASSING |= {"period_anchor", "period_start", "period_end", "request_minute", "request_cells", "prior_at", "busy"}


def prepared(quota_sql: QuotaSql) -> Any:
    user_id = quota_sql.user(tokens_limit=100, requests_limit=4)
    hold = quota_sql.reserve(user_id, 50, requests=1).id
    block = quota_sql.lease(user_id, 20, min_tokens=20, requests=1).id
    return SimpleNamespace(user_id=user_id, hold=hold, block=block, fresh=uuid.uuid4())


def lasting(answer: Any) -> Any:
    """Return the values of an answer that must be equal in two runs."""
    return (
        {name: value for name, value in vars(answer).items() if name not in PASSING}
        if isinstance(answer, SimpleNamespace)
        else isinstance(answer, uuid.UUID) or answer
    )


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_callers_do_what_they_would_do_one_after_the_other(
    dsn: str, quota_sql: QuotaSql, first: str, second: str
) -> None:
    calls = OPERATIONS | PROGRESS
    apart, together = prepared(quota_sql), prepared(quota_sql)
    wanted = [lasting(calls[name](quota_sql, apart)) for name in (first, second)]
    with waiting(dsn, quota_sql, lambda other: calls[second](other, together)) as race_of_two:
        seen = [lasting(calls[first](quota_sql, together))]
    seen.append(lasting(race_of_two.answer.value))
    assert seen == wanted
    # A call that was rolled back and repeated has used up a number, so the epochs may differ.
    states = [{**lasting(quota_sql.quota(one.user_id)), "epoch": None} for one in (apart, together)]
    assert states[0] == states[1]
    assert quota_sql.ledger(apart.user_id) == quota_sql.ledger(together.user_id)
    for one in (apart, together):
        assert (
            quota_sql.value(
                "SELECT sum(n) FROM user_quotas, unnest(request_cells) AS n WHERE user_id = %s", one.user_id
            )
            == (states[0]["requests_used"])
        )
        quota_sql.balance(one.user_id)


# Time that goes by while a caller waits.


def late_requests(quota_sql: QuotaSql, user_id: uuid.UUID) -> None:
    quota = quota_sql.quota(user_id)
    assert (quota.requests_used, sum(quota.request_cells)) == (1, 1)
    assert quota.request_minute == quota_sql.value("SELECT quota_minute(test_clock.clock_timestamp())")


def late_build(quota_sql: QuotaSql, user_id: uuid.UUID) -> None:
    assert quota_sql.quota(user_id).builds_used == 1


def late_period(quota_sql: QuotaSql, user_id: uuid.UUID) -> None:
    assert quota_sql.quota(user_id).tokens_held == 60
    assert quota_sql.value("SELECT count(*) FROM quota_history WHERE user_id = %s", user_id) == 1


def late_grant(quota_sql: QuotaSql, user_id: uuid.UUID) -> None:
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_limit, quota.tokens_held) == (100, 0)


#: The call, the time for which it waits, the check afterwards, and the function with its second look at the clock.
LATE: dict[
    str, tuple[Callable[[QuotaSql, uuid.UUID], Any], timedelta, Callable[[QuotaSql, uuid.UUID], None], tuple[str, str]]
] = {
    "another minute": (
        lambda quota_sql, user_id: quota_sql.reserve(user_id, requests=1),
        *(timedelta(minutes=61), late_requests, ("quota_reserve", "requests = 0 OR quota_minute(at) = minute")),
    ),
    "another minute of a hit": (
        lambda quota_sql, user_id: quota_sql.hit(user_id),
        *(timedelta(minutes=61), late_requests, ("quota_hit", "quota_minute(clock_timestamp()) = minute")),
    ),
    "another day": (
        lambda quota_sql, user_id: quota_sql.reserve(user_id, builds=1),
        timedelta(days=1),
        *(late_build, ("quota_reserve", "builds = 0 OR (at AT TIME ZONE fast.time_zone)::date = fast.build_day")),
    ),
    "another period": (
        lambda quota_sql, user_id: quota_sql.reserve(user_id, 60),
        *(timedelta(days=40), late_period, ("quota_reserve", "at < fast.period_end")),
    ),
    "the end of a top-up": (
        lambda quota_sql, user_id: quota_sql.reserve(user_id, 120),
        timedelta(days=3),
        *(late_grant, ("quota_reserve", "fast.grants_expire_at > at OR fast.grants_expire_at IS NULL")),
    ),
}


def wait_for_long(dsn: str, quota_sql: QuotaSql, name: str) -> None:
    """Let a caller wait for the row for so long that its reservation, which fitted at first, no longer fits."""
    call, wait, check, _ = LATE[name]
    noon = (datetime.now(UTC) + timedelta(days=1)).replace(hour=12)
    with QuotaSql(dsn) as clock:
        clock.set_clock(noon)
        user_id = quota_sql.user(tokens_limit=100, requests_limit=2, builds_limit=2)
        if name == "the end of a top-up":
            quota_sql.grant(user_id, 50, days=2)
        assert quota_sql.reserve(user_id, requests=1, builds=1).granted
        with waiting(dsn, quota_sql, lambda other: call(other, user_id), then=lambda: clock.set_clock(noon + wait)):
            quota_sql.connection.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", (user_id,))
        check(quota_sql, user_id)
    quota_sql.balance(user_id)


@pytest.mark.every_server
@pytest.mark.parametrize("name", LATE)
def test_caller_that_waited_sees_what_time_has_brought(dsn: str, quota_sql: QuotaSql, name: str) -> None:
    with quota_sql.own_clock():
        wait_for_long(dsn, quota_sql, name)


@pytest.mark.parametrize("name", LATE)
def test_short_cut_that_looks_at_the_clock_once_is_noticed(dsn: str, quota_sql: QuotaSql, name: str) -> None:
    function, look = LATE[name][-1]
    with quota_sql.own_clock(), mutated(quota_sql.connection, function, (look, "true")), pytest.raises(AssertionError):
        wait_for_long(dsn, quota_sql, name)
