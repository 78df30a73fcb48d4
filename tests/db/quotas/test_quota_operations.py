"""The quota operations, through both clients."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from quota_sql import TTL, QuotaSql

from atlas_sdk import InvalidInput, NotFound
from atlas_sdk._plan import Query
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.ops import quotas


def new_user(client: Any) -> Any:
    return client.users.create(f"{uuid.uuid4().hex}@example.com")


def test_reserve_settle_and_usage(client: Any) -> None:
    user = new_user(client)
    held = client.quotas.reserve(user, tokens=400, cost="0.25", slots=1, builds=1, meta={"model": "m"})
    assert (held.tokens, held.cost, held.state, held.epoch) == (400, Decimal("0.25"), "held", 1)
    usage = client.quotas.usage(user)
    assert (usage.tokens_used, usage.tokens_held, usage.tokens_limit) == (0, 400, 1_000_000)
    assert (usage.cost_held, usage.cost_limit, usage.slots_held, usage.slots_limit) == (Decimal("0.25"), 10, 1, 2)
    assert (usage.requests_last_hour, usage.builds_today) == (1, 1)
    assert client.quotas.extend(user, held.id, tokens=100, ttl=timedelta(minutes=5)).tokens == 500
    assert client.quotas.progress(user, held.id, tokens=10) is True
    (hold,) = client.quotas.reservations(user)
    assert (hold.tokens, hold.tokens_progressed, hold.meta) == (500, 10, {"model": "m"})
    done = client.quotas.settle(user, held.id, tokens=120, cost=Decimal("0.1"))
    assert (done.outcome, done.tokens, done.overrun) == ("settled", 120, False)
    assert client.quotas.settle(user, held.id, tokens=120).outcome == "repeated"
    usage = client.quotas.usage(user)
    assert (usage.tokens_used, usage.tokens_held, usage.cost_used, usage.slots_held) == (120, 0, Decimal("0.1"), 0)
    assert client.quotas.verify(user).balanced


def test_refusal_says_what_it_takes(client: Any) -> None:
    user = new_user(client)
    client.quotas.set_limits(user, tokens=1000, containers=1)
    with pytest.raises(QuotaExceeded, match="leaves 1000, and 1001 were asked for: more than it can ever") as never:
        client.quotas.reserve(user, tokens=1001)
    assert (never.value.dimension, never.value.remaining, never.value.retry_after) == ("tokens", 1000, None)
    assert never.value.exit_code == 4
    held = client.quotas.reserve(user, slots=1, holder="container-7")
    with pytest.raises(QuotaExceeded, match="try again in") as later:
        client.quotas.reserve(user, slots=1)
    assert (later.value.dimension, later.value.holders) == ("containers", ("container-7",))
    assert later.value.resets_at == held.expires_at
    assert client.quotas.release(user, held.id).outcome == "released"
    with pytest.raises(InvalidInput, match="released already"):
        client.quotas.reserve(user, slots=1, reservation_id=held.id)
    for ended in (
        lambda: client.quotas.extend(user, held.id, ttl=TTL),
        lambda: client.quotas.settle(user, uuid.uuid4()),
        lambda: client.quotas.release(user, user.id),
    ):
        with pytest.raises(NotFound):
            ended()


def test_limits_that_are_not_named_stay(client: Any) -> None:
    user = new_user(client)
    usage = client.quotas.set_limits(user, tokens=None, cost="2.5", builds_per_day=7)
    assert (usage.tokens_limit, usage.cost_limit, usage.slots_limit) == (None, Decimal("2.5"), 2)
    assert (usage.requests_limit, usage.builds_limit) == (100, 7)
    assert client.quotas.set_limits(user) == usage
    changed = [event for event in client.events.recent(user) if event.type == "quota.limits_changed"]
    assert [event.meta["limits"] for event in changed] == [{"tokens": None, "cost": "2.5", "builds": 7}]


def test_check_tells_the_first_limit_that_is_reached(client: Any) -> None:
    user = new_user(client)
    assert client.quotas.check(user).exceeded is False
    added = uuid.uuid4()
    for _ in range(2):
        client.quotas.add_tokens(user, 1_000_001, cost="10.5", meta={"model": "m"}, reservation_id=added)
    checked = client.quotas.check(user)
    assert (checked.exceeded, checked.dimension) == (True, "tokens")
    assert checked.reason == "tokens: 1000001 of 1000000 are taken"
    client.quotas.set_limits(user, tokens=None)
    assert client.quotas.check(user).dimension == "cost"


def test_monthly_reset_closes_what_has_ended_and_nothing_twice(client: Any, quota_sql: QuotaSql) -> None:
    client.quotas.reset_monthly()
    users = [new_user(client) for _ in range(3)]
    for user in users:
        client.quotas.add_tokens(user, 5)
    for user in users[:2]:
        quota_sql.end_period(user.id)
    usage = client.quotas.usage(users[0])
    assert (usage.tokens_used, usage.period_end > datetime.now(UTC)) == (0, True)
    assert client.quotas.reset_monthly() == 2
    assert client.quotas.reset_monthly() == 0
    after = client.quotas.usage(users[0])
    assert (after.period_start, after.period_end) == (usage.period_start, usage.period_end)
    assert client.quotas.usage(users[2]).tokens_used == 5


def test_verify_finds_books_that_do_not_balance(client: Any, quota_sql: QuotaSql) -> None:
    user = new_user(client)
    # The counters of this other user match the ledger.
    new_user(client)
    client.quotas.add_tokens(user, 5)
    client.quotas.reserve(user, tokens=7)
    assert client.quotas.verify().balanced
    quota_sql.change(user.id, tokens_used=6, tokens_held=0)
    audit = client.quotas.verify()
    (books,) = audit.unbalanced
    assert (books.user_id, books.tokens_used, books.tokens_charged) == (user.id, 6, 5)
    assert (books.tokens_held, books.tokens_reserved) == (0, 7)
    assert audit.periods > 1
    quota_sql.change(user.id, tokens_used=5, tokens_held=7)


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("tokens", {"tokens": -1}),
        ("tokens", {"tokens": 10**12 + 1}),
        ("tokens", {"tokens": 1.5}),
        ("tokens", {"requests": 0}),
        ("min_tokens", {"tokens": 5, "min_tokens": 6}),
        ("min_tokens", {"tokens": 5, "min_tokens": 0}),
        ("cost", {"cost": 0.1}),
        ("cost", {"cost": "NaN"}),
        ("cost", {"cost": "much"}),
        ("cost", {"cost": Decimal(-1)}),
        ("slots", {"slots": -1}),
        ("ttl", {"ttl": timedelta(0)}),
    ],
)
def test_bad_argument_is_named_before_the_database_is_asked(field: str, asked: dict[str, Any]) -> None:
    plan = quotas.reserve(SimpleNamespace(id=uuid.uuid4()), reservation_id=uuid.uuid4(), **asked)  # type: ignore[arg-type]
    # The first effect is the context, which is no statement.
    assert not isinstance(next(plan), Query)
    with pytest.raises(InvalidInput) as refused:
        plan.send(SimpleNamespace(tenant=None))
    assert refused.value.field == field
