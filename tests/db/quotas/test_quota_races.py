"""Callers that race: the limits hold, and whoever comes second sees what the first did."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from doors import Door

CALLERS = 16
PATIENCE_S = 60


# Never over the limit.

LIMIT = 20_000


def race(dsn: str, user_id: uuid.UUID, call: Callable[[Door, random.Random], bool]) -> int:
    """Have 16 callers repeat a call until it says that nothing is left; return the highest used + held ever seen."""
    peak = 0

    def caller(seed: int) -> None:
        own = Door(dsn)
        dice = random.Random(seed)
        while call(own, dice):
            pass
        own.connection.close()

    watcher = Door(dsn)
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
def test_callers_that_race_never_exceed_a_limit(dsn: str, door: Door) -> None:
    user_id = door.user(tokens_limit=LIMIT, cost_limit=1000)

    def call(own: Door, dice: random.Random) -> bool:
        granted = own.reserve(user_id, 200, min_tokens=10, cost="0.1", requests=1)
        if not granted.granted:
            return False
        assert 10 <= granted.tokens <= 200
        if dice.random() < 0.1:
            own.release(user_id, granted.id)
        else:
            own.settle(user_id, granted.id, dice.randint(granted.tokens // 2, granted.tokens), "0.05")
        return True

    peak = race(dsn, user_id, call)
    quota = door.quota(user_id)
    assert peak <= LIMIT
    assert quota.tokens_held == quota.cost_held == 0
    # Whoever gives up while others hold something leaves it to them: the last one takes the rest.
    assert LIMIT - 10 < quota.tokens_used <= LIMIT
    assert sum(amount for _, amount, _ in door.ledger(user_id)) == quota.tokens_used
    door.balance(user_id)


def test_checking_and_then_updating_exceeds_it(dsn: str, door: Door) -> None:
    """The pair that everybody writes first, in the same race: it shows that the race can be lost."""
    user_id = door.user(tokens_limit=LIMIT)
    all_have_checked = threading.Barrier(CALLERS)
    door.change(user_id, tokens_used=LIMIT - 500)

    def call(own: Door, dice: random.Random) -> bool:
        quota = own.quota(user_id)
        if quota.tokens_used + 500 > LIMIT:
            return False
        all_have_checked.wait(PATIENCE_S)
        own.connection.execute("UPDATE user_quotas SET tokens_used = tokens_used + 500 WHERE user_id = %s", (user_id,))
        return True

    assert race(dsn, user_id, call) == LIMIT + 500 * (CALLERS - 1)
    # These books balance for nobody.
    door.connection.execute("DELETE FROM users WHERE id = %s", (user_id,))


@pytest.mark.every_server
def test_many_callers_at_the_end_of_a_period_close_it_once(dsn: str, door: Door) -> None:
    user_id = door.user(tokens_limit=80)
    door.reserve(user_id, 80)
    door.end_period(user_id)

    def call(_: int) -> bool:
        own = Door(dsn)
        granted = own.reserve(user_id, 10).granted
        own.connection.close()
        return granted

    with ThreadPoolExecutor(CALLERS) as threads:
        assert sum(threads.map(call, range(CALLERS))) == 8
    assert door.value("SELECT count(*) FROM quota_history WHERE user_id = %s", user_id) == 1
    assert door.quota(user_id).tokens_held == 80
    door.balance(user_id)


# Two connections, in a chosen order.


@contextmanager
def waiting(dsn: str, door: Door, call: Callable[[Door], Any]) -> Iterator[Any]:
    """Start a call on another connection while this one has the row; on leaving, it has answered."""
    other = Door(dsn)
    pid = other.connection.info.backend_pid
    watcher = Door(dsn)
    answer = SimpleNamespace()
    thread = threading.Thread(target=lambda: setattr(answer, "value", call(other)))
    with door.connection.transaction():
        yield SimpleNamespace(start=thread.start, answer=answer)
        thread.start()
        while not watcher.value("SELECT pg_blocking_pids(%s) <> '{}'", pid):
            assert thread.is_alive(), "the second call did not wait for the first"
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    other.connection.close()
    watcher.connection.close()


CALLS: dict[str, Callable[[Door, uuid.UUID, uuid.UUID], Any]] = {
    "reserve": lambda door, user_id, key: door.reserve(user_id, 60),
    "settle": lambda door, user_id, key: door.settle(user_id, key, 10, 0),
    "release": lambda door, user_id, key: door.release(user_id, key),
    "extend": lambda door, user_id, key: door.extend(user_id, key, 40),
}
#: What the second call is told, with a limit of 100 and a hold of 50.
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
def test_second_caller_waits_and_sees_what_the_first_did(dsn: str, door: Door, first: str, second: str) -> None:
    user_id = door.user(tokens_limit=100)
    key = door.reserve(user_id, 50).id
    if (first, second) == ("reserve", "reserve"):
        door.release(user_id, key)
    with waiting(dsn, door, lambda other: CALLS[second](other, user_id, key)) as race_of_two:
        CALLS[first](door, user_id, key)
    assert SECOND[first, second](race_of_two.answer.value)
    quota = door.quota(user_id)
    assert quota.tokens_used + quota.tokens_held <= 100
    door.balance(user_id)
