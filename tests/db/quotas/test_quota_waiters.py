"""The queue of waiting calls in SQL: who is next, which refusals no wait can change, and who is notified."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from quota_sql import QuotaSql

from atlas_sdk import Atlas

SHORT = timedelta(seconds=30)


@pytest.fixture
def heard(dsn: str) -> Iterator[Callable[[uuid.UUID], list[str]]]:
    """Yield a function that returns the notifications for a user's calls since the last time."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        listening: set[uuid.UUID] = set()

        def take(user_id: uuid.UUID) -> list[str]:
            if user_id not in listening:
                listening.add(user_id)
                connection.execute(f'LISTEN "{user_id}:atlas_quota"')
            connection.execute("SELECT 1")
            return [note.payload for note in connection.notifies(timeout=0)]

        yield take


def queue(quota_sql: QuotaSql, user_id: uuid.UUID, *tokens: int) -> list[uuid.UUID]:
    """Put calls for these tokens into the queue; return their ids."""
    asked = [quota_sql.wait(user_id, each) for each in tokens]
    assert [each.state for each in asked] == ["queued"] * len(tokens)
    return [each.id for each in asked]


def test_a_call_that_fits_does_not_wait(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    held = quota_sql.wait(user, 60, requests=1)
    assert (held.granted, held.state, held.tokens) == (True, "held", 60)
    assert quota_sql.waiters(user) == []
    assert quota_sql.quota(user).waiting_until is None


def test_the_first_that_came_is_served_first(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    first = quota_sql.reserve(user, 90)
    large, small = queue(quota_sql, user, 60, 10)
    again = quota_sql.wait(user, 10, key=small)
    assert (again.state, again.dimension) == ("queued", None), "ten tokens are free, but another call came first"
    quota_sql.settle(user, first.id, 20)
    assert quota_sql.wait(user, 10, key=small).state == "queued"
    assert quota_sql.wait(user, 60, key=large).state == "held"
    assert quota_sql.wait(user, 10, key=small).state == "held"
    assert quota_sql.waiters(user) == []
    quota_sql.balance(user)


def test_a_call_that_does_not_wait_takes_what_is_free(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 90)
    queue(quota_sql, user, 60)
    assert quota_sql.reserve(user, 10).granted


def test_a_repeated_call_keeps_its_place(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 100)
    calls = queue(quota_sql, user, 1, 2, 3)
    assert quota_sql.wait(user, 1, key=calls[0]).state == "queued"
    assert quota_sql.waiters(user) == calls


def test_elastic_calls_get_what_is_free_at_their_turn(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    first = quota_sql.reserve(user, 90)
    waiting = quota_sql.wait(user, 80, min_tokens=30)
    assert (waiting.state, waiting.dimension) == ("queued", "tokens")
    quota_sql.settle(user, first.id, 60)
    assert quota_sql.wait(user, 80, min_tokens=30, key=waiting.id).tokens == 40


@pytest.mark.parametrize(
    ("limits", "asks", "dimension"),
    [
        ({"tokens_limit": 100}, {"tokens": 101}, "tokens"),
        ({"cost_limit": 1}, {"cost": 2}, "cost"),
        ({"containers_limit": 1}, {"slots": 2}, "containers"),
        ({"requests_limit": 3}, {"requests": 4}, "requests"),
        ({"builds_limit": 3}, {"builds": 4}, "builds"),
    ],
)
def test_more_than_a_whole_limit_is_refused_at_once(
    quota_sql: QuotaSql, limits: Any, asks: Any, dimension: str
) -> None:
    user = quota_sql.user(**limits)
    refused = quota_sql.wait(user, **asks)
    assert (refused.state, refused.dimension, refused.retry_after) == ("refused", dimension, None)
    quota_sql.reserve(user, **dict.fromkeys(asks, 1))
    ahead = quota_sql.wait(user, **{name: value - 1 for name, value in asks.items()}, wait=timedelta(hours=24))
    assert ahead.state == "queued"
    assert quota_sql.wait(user, **asks).dimension == dimension, "also behind other calls"
    assert quota_sql.waiters(user) == [ahead.id]


@pytest.mark.parametrize("dimension", ["builds", "requests"])
def test_what_comes_free_after_the_wait_is_refused_at_once(quota_sql: QuotaSql, dimension: str) -> None:
    user = quota_sql.user(**{f"{dimension}_limit": 1, "tokens_limit": 100})
    # In a zone whose midnight is far away.
    hours = quota_sql.value("SELECT EXTRACT(hour FROM now() AT TIME ZONE 'UTC')::integer")
    quota_sql.change(user, time_zone=f"Etc/GMT{hours - 12:+d}")
    quota_sql.reserve(user, 100, **{dimension: 1})
    refused = quota_sql.wait(user, 1, **{dimension: 1}, wait=SHORT)
    assert (refused.state, refused.dimension) == ("refused", dimension), "although tokens could come"
    assert refused.retry_after > SHORT
    assert quota_sql.waiters(user) == []
    assert quota_sql.wait(user, 1, **{dimension: 1}, wait=timedelta(hours=24)).state == "queued"


def test_requests_of_a_lease_may_come_back(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(requests_limit=2)
    assert quota_sql.lease(user, requests=2).granted
    quota_sql.hit(user)
    assert quota_sql.wait(user, requests=1, wait=SHORT).state == "queued"


def test_tokens_may_always_come(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    quota_sql.add(user, 100)
    waiting = quota_sql.wait(user, 50, wait=SHORT)
    assert (waiting.state, waiting.dimension) == ("queued", "tokens")
    quota_sql.grant(user, 50)
    assert quota_sql.wait(user, 50, key=waiting.id).granted


def test_the_last_try_gives_up_the_place(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 90)
    large, small, other = queue(quota_sql, user, 60, 10, 20)
    refused = quota_sql.wait(user, 20, key=other, wait=timedelta())
    assert (refused.state, refused.dimension, refused.remaining) == ("refused", "tokens", 10)
    assert quota_sql.wait(user, 10, key=small, wait=timedelta()).granted, "as a call that does not wait"
    assert quota_sql.waiters(user) == [large]


def test_the_last_try_of_a_dead_call_leaves_nothing(quota_sql: QuotaSql) -> None:
    """At the deadline of a call its place has just ended."""
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 90)
    (late,) = queue(quota_sql, user, 60)
    quota_sql.dies(late)
    quota_sql.change(user, waiting_until=quota_sql.value("SELECT now() - interval '1 s'"))
    assert quota_sql.wait(user, 60, key=late, wait=timedelta()).state == "refused"
    assert quota_sql.waiters(user) == []


def test_a_dead_call_blocks_nobody_for_long(quota_sql: QuotaSql, heard: Callable[[uuid.UUID], list[str]]) -> None:
    user = quota_sql.user(tokens_limit=100)
    held = quota_sql.reserve(user, 100)
    killed, next_one, last = queue(quota_sql, user, 60, 10, 10)
    assert heard(user) == []
    assert timedelta() < quota_sql.wait(user, 10, key=next_one).lasts <= timedelta(seconds=15)
    quota_sql.dies(killed)
    quota_sql.settle(user, held.id, 0)
    assert heard(user) == [str(next_one)], "the dead one is not woken"
    assert quota_sql.wait(user, 10, key=last).state == "queued"
    assert quota_sql.wait(user, 10, key=next_one).granted
    assert heard(user) == [str(last)]


def test_a_call_that_comes_back_after_its_death_is_the_last(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 100)
    first, second = queue(quota_sql, user, 10, 10)
    quota_sql.dies(first)
    quota_sql.wait(user, 10, key=first)
    assert quota_sql.waiters(user) == [second, first]


@pytest.mark.parametrize(
    "event",
    ["settle", "settle slowly", "release", "expiry", "grant", "limit in psql", "plan", "slot", "old period", "refund"],
)
def test_whatever_gives_something_back_wakes_the_first(
    quota_sql: QuotaSql, heard: Callable[[uuid.UUID], list[str]], event: str
) -> None:
    user = quota_sql.user(tokens_limit=100, containers_limit=1)
    held = quota_sql.reserve(user, 100, slots=1)
    first, _ = queue(quota_sql, user, 60, 10)
    assert heard(user) == []
    match event:
        case "settle":
            quota_sql.settle(user, held.id, 10)
        case "settle slowly":
            quota_sql.settle(user, held.id, 90)
        case "release" | "slot":
            quota_sql.release(user, held.id)
        case "expiry":
            quota_sql.expire(held.id)
            assert quota_sql.reserve(user, slots=2).dimension == "containers"
        case "grant":
            quota_sql.grant(user, 100)
        case "limit in psql":
            quota_sql.change(user, tokens_limit=200)
        case "plan":
            quota_sql.apply_plan(user)
        case "old period":
            quota_sql.end_period(user)
            quota_sql.settle(user, held.id, 10)
        case "refund":
            quota_sql.settle(user, held.id, 100)
            heard(user)
            quota_sql.refund(user, held.id, 50)
    assert set(heard(user)) == {str(first)}


def test_a_settlement_that_gives_nothing_back_wakes_nobody(
    quota_sql: QuotaSql, heard: Callable[[uuid.UUID], list[str]]
) -> None:
    user = quota_sql.user(tokens_limit=1000)
    all_used, some_used = quota_sql.reserve(user, 40), quota_sql.reserve(user, 40)
    quota_sql.reserve(user, 900)
    (first,) = queue(quota_sql, user, 60)
    assert heard(user) == []
    quota_sql.settle(user, all_used.id, 40)
    assert heard(user) == []
    quota_sql.settle(user, some_used.id, 39)
    assert heard(user) == [str(first)]


def test_each_watches_the_one_just_ahead(quota_sql: QuotaSql) -> None:
    """If all watched the first one, all would ask at once when its time is over."""
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 100)
    keys = queue(quota_sql, user, 10, 10, 10)
    quota_sql.dies(keys[0], after=timedelta(seconds=3))
    assert quota_sql.wait(user, 10, key=keys[1]).lasts <= timedelta(seconds=3)
    assert quota_sql.wait(user, 10, key=keys[2]).lasts > timedelta(seconds=3)


def test_nobody_is_notified_while_nobody_waits(quota_sql: QuotaSql, heard: Callable[[uuid.UUID], list[str]]) -> None:
    user = quota_sql.user(tokens_limit=100)
    assert heard(user) == []
    quota_sql.settle(user, quota_sql.reserve(user, 100).id, 10)
    quota_sql.release(user, quota_sql.reserve(user, 10).id)
    quota_sql.change(user, tokens_limit=200)
    assert heard(user) == []


def test_who_leaves_wakes_the_next(quota_sql: QuotaSql, heard: Callable[[uuid.UUID], list[str]]) -> None:
    user = quota_sql.user(tokens_limit=100)
    quota_sql.reserve(user, 90)
    large, small = queue(quota_sql, user, 60, 10)
    assert heard(user) == []
    assert quota_sql.leave(user, large)
    assert not quota_sql.leave(user, large)
    assert heard(user) == [str(small)]
    assert quota_sql.release(user, small).outcome == "unknown", "a release also leaves the queue"
    assert quota_sql.waiters(user) == []
    assert quota_sql.quota(user).waiting_until is None


def test_the_answer_to_an_earlier_call_comes_at_once(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=100)
    held = quota_sql.reserve(user, 50)
    queue(quota_sql, user, 60)
    again = quota_sql.wait(user, 50, key=held.id)
    assert (again.granted, again.repeated, again.tokens) == (True, True, 50)
    quota_sql.release(user, held.id)
    assert quota_sql.wait(user, 50, key=held.id).state == "released"


def test_a_deleted_user_waits_no_more(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=1)
    quota_sql.reserve(user, 1)
    queue(quota_sql, user, 1)
    quota_sql.connection.execute("DELETE FROM users WHERE id = %s", (user,))
    assert quota_sql.waiters(user) == []


def test_usage_counts_the_living(quota_sql: QuotaSql) -> None:
    user = quota_sql.user(tokens_limit=1)
    quota_sql.reserve(user, 1)
    first, _ = queue(quota_sql, user, 1, 1)
    assert quota_sql.usage(user).waiting == 2
    quota_sql.dies(first)
    assert quota_sql.usage(user).waiting == 1


def test_no_tenant_learns_of_another_ones_queue(quota_sql: QuotaSql, dsn: str) -> None:
    mine, other = quota_sql.user(tokens_limit=1), quota_sql.user(tokens_limit=1)
    for user in (mine, other):
        quota_sql.reserve(user, 1)
        queue(quota_sql, user, 1)
    with Atlas.open(dsn) as atlas, atlas.as_user(mine).transaction() as tx:
        connection: psycopg.Connection[Any] = tx._runner.connection  # type: ignore[attr-defined]
        assert connection.execute("SELECT DISTINCT user_id FROM quota_waiters").fetchall() == [(mine,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("DELETE FROM quota_waiters")
