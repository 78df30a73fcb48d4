"""An id or key is for one call with its amounts. With other amounts it is a conflict, whatever became of the call."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from guard_adapter import QuotaClient, used
from quota_sql import QuotaSql

from atlas_sdk import IdempotencyConflict, InvalidInput, Reservation, User

#: Amounts of a call, and the changes that make another call of it.
AMOUNTS: dict[str, Any] = {"tokens": 10, "min_tokens": 5, "cost": "0.1", "slots": 1, "requests": 1, "builds": 1}
OTHERS: tuple[dict[str, Any], ...] = (
    {"tokens": 11},
    {"min_tokens": 6},
    {"min_tokens": None},
    {"cost": "0.100000001"},
    {"cost": 0},
    {"slots": 0},
    {"requests": 2},
    {"builds": 0},
)


def _expire(client: Any, quota_sql: QuotaSql, user: User, held: Reservation) -> None:
    quota_sql.expire(held.id)
    client.maintenance.reclaim_reservations()


STATES: dict[str, Callable[[Any, QuotaSql, User, Reservation], object]] = {
    "held": lambda client, quota_sql, user, held: None,
    "extended": lambda client, quota_sql, user, held: client.quotas.extend(user, held.id, tokens=5, cost=1),
    "settled": lambda client, quota_sql, user, held: client.quotas.settle(user, held.id, tokens=3, cost="0.01"),
    "released": lambda client, quota_sql, user, held: client.quotas.release(user, held.id),
    "expired": _expire,
    "corrected": lambda client, quota_sql, user, held: (
        _expire(client, quota_sql, user, held),
        client.quotas.settle(user, held.id, tokens=3),
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_an_id_with_other_amounts_is_a_conflict(client: QuotaClient, quota_sql: QuotaSql, state: str) -> None:
    user, key = client.user(tokens=12), uuid.uuid4()
    client.quotas.add_tokens(user, 4)
    held = client.quotas.reserve(user, **AMOUNTS, reservation_id=key)
    assert held.tokens == 8, "what was left, and not what was asked for"
    client.quotas.set_limits(user, tokens=100)
    STATES[state](client, quota_sql, user, held)
    before = client.usage_of(user)
    for other in OTHERS:
        with pytest.raises(IdempotencyConflict, match="other amounts") as refused:
            client.quotas.reserve(user, **{**AMOUNTS, **other}, reservation_id=key)
        assert (refused.value.key, refused.value.http_status) == (str(key), 409)
    with pytest.raises(IdempotencyConflict):
        client.quotas.lease_block(user, tokens=10, min_tokens=5, reservation_id=key)
    if state in {"released", "expired"}:
        with pytest.raises(InvalidInput, match=state):
            client.quotas.reserve(user, **AMOUNTS, reservation_id=key)
    else:
        # Equal amounts may be written in another way.
        assert client.quotas.reserve(user, **{**AMOUNTS, "cost": "0.10"}, reservation_id=key).repeated
    if state in {"held", "extended"}:
        with pytest.raises(InvalidInput, match="still held"):
            client.quotas.add_tokens(user, 8, reservation_id=key)
    else:
        with pytest.raises(IdempotencyConflict):
            client.quotas.add_tokens(user, 8, reservation_id=key)
    assert client.usage_of(user) == before


def test_a_block_with_other_amounts_is_a_conflict(client: QuotaClient) -> None:
    user, key = client.user(), uuid.uuid4()
    asked: dict[str, Any] = {"tokens": 10, "cost": "0.1", "requests": 5}
    block = client.quotas.lease_block(user, **asked, reservation_id=key)
    assert client.quotas.lease_block(user, **asked, reservation_id=key).id == block.id
    for other in (
        {"tokens": 11},
        {"min_tokens": 9},
        {"cost": 1},
        {"min_cost": 0},
        {"requests": 4},
        {"min_requests": 1},
    ):
        with pytest.raises(IdempotencyConflict):
            client.quotas.lease_block(user, **{**asked, **other}, reservation_id=key)


def test_added_tokens_and_top_ups_are_conflicts_too(client: QuotaClient) -> None:
    user, key = client.user(tokens=100, cost=1), uuid.uuid4()
    client.quotas.add_tokens(user, 5, cost="0.1", reservation_id=key)
    assert client.quotas.add_tokens(user, 5, cost="0.10", reservation_id=key).outcome == "repeated"
    for tokens, cost in ((6, "0.1"), (5, 0)):
        with pytest.raises(IdempotencyConflict):
            client.quotas.add_tokens(user, tokens, cost=cost, reservation_id=key)
    client.quotas.grant(user, tokens=50, cost="0.0000000025", grant_id=key)
    # The time of the expiry is not compared, because `expires_in` counts from now.
    again = client.quotas.grant(
        user, tokens=50, cost="0.0000000025", expires_in=timedelta(days=1), reason="again", grant_id=key
    )
    assert (again.tokens, again.expires_at) == (50, None)
    for asked in ({"tokens": 51, "cost": "0.0000000025"}, {"tokens": 50}, {"tokens": 50, "cost": 1}):
        with pytest.raises(IdempotencyConflict) as refused:
            client.quotas.grant(user, **asked, grant_id=key)
        assert refused.value.key == str(key)
    usage = client.usage_of(user)
    assert (usage.tokens_used, usage.tokens_granted) == (5, 50)


def test_a_guard_with_another_calls_key_is_not_entered(client: QuotaClient) -> None:
    """The second call would run with the first call's amounts, and pay nothing."""
    user = client.user()
    with client.guard(user, tokens=10, idempotency_key="order 1") as first:
        with (
            pytest.raises(IdempotencyConflict) as refused,
            client.guard(user, tokens=9_000, idempotency_key="order 1"),
        ):
            pytest.fail("it was entered")
        assert refused.value.key == str(first.id)
        first.settle(tokens=10)
    with pytest.raises(IdempotencyConflict), client.guard(user, tokens=9_000, idempotency_key="order 1"):
        pytest.fail("it was entered")
    assert used(client, user)[0] == 10


@pytest.mark.every_server
def test_calls_that_race_with_one_id_and_two_amounts(dsn: str, quota_sql: QuotaSql) -> None:
    user_id, key = quota_sql.user(tokens_limit=1000), uuid.uuid4()

    def caller(number: int) -> tuple[int, str, bool]:
        with QuotaSql(dsn) as own:
            answer = own.reserve(user_id, 10 + number % 2, key=key)
            return 10 + number % 2, answer.state, answer.granted

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(caller, range(8)))
    (winner,) = {tokens for tokens, _, granted in answers if granted}
    assert answers == {(winner, "held", True), (21 - winner, "conflict", False)}
    assert quota_sql.quota(user_id).tokens_held == winner
