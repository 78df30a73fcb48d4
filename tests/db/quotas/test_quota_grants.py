"""Top-ups: used after the plan's allowance, the soonest to expire first, and never more than once."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput, NotFound, QuotaExceeded
from atlas_sdk._plan import Begin, Rollback
from atlas_sdk.ops import limits


def burned(quota_sql: QuotaSql, user_id: uuid.UUID) -> dict[uuid.UUID, int]:
    return {key: grant.tokens_burned for key, grant in quota_sql.grants(user_id).items()}


def look(quota_sql: QuotaSql, user_id: uuid.UUID) -> Any:
    """Let the database update the row without another change; return the row."""
    quota_sql.change(user_id, containers_limit=0)
    assert not quota_sql.reserve(user_id, slots=1).granted
    return quota_sql.quota(user_id)


@pytest.mark.every_server
def test_allowance_of_the_plan_is_used_first_and_the_rest_of_a_top_up_goes_over(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=1)
    grant = quota_sql.grant(user_id, 50, "0.5")
    assert not quota_sql.reserve(user_id, 151).granted
    quota_sql.add(user_id, 120, "0.9")
    assert burned(quota_sql, user_id) == {grant: 0}
    quota_sql.end_period(user_id)
    quota = look(quota_sql, user_id)
    assert (quota.tokens_limit, quota.cost_limit) == (130, Decimal("1.5"))
    row = quota_sql.grants(user_id)[grant]
    assert (row.tokens_burned, row.cost_burned, row.closed_at) == (20, 0, None)
    history = quota_sql.row("SELECT * FROM quota_history WHERE user_id = %s", user_id)
    assert (history.tokens_used, history.tokens_limit, history.cost_limit) == (120, 150, Decimal("1.5"))
    quota_sql.add(user_id, 130, "1.5")
    quota_sql.end_period(user_id)
    quota = look(quota_sql, user_id)
    assert (quota.tokens_limit, quota.tokens_granted, quota.cost_granted) == (100, 0, 0)
    assert quota_sql.grants(user_id)[grant].closed_at is not None
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_soonest_to_expire_is_used_first(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    never = quota_sql.grant(user_id, 40)
    later = quota_sql.grant(user_id, 20, days=20)
    soon = quota_sql.grant(user_id, 30, days=10)
    quota_sql.add(user_id, 145)
    quota_sql.end_period(user_id)
    assert look(quota_sql, user_id).tokens_limit == 100 + 5 + 40
    assert burned(quota_sql, user_id) == {soon: 30, later: 15, never: 0}
    assert quota_sql.grants(user_id)[soon].closed_at is not None


@pytest.mark.every_server
def test_expiry_loses_what_is_not_used(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    grant = quota_sql.grant(user_id, 50, days=1)
    quota_sql.add(user_id, 120)
    quota_sql.expire_grant(user_id, grant)
    refused = quota_sql.reserve(user_id, 1)
    assert (refused.dimension, refused.bound, refused.remaining) == ("tokens", 120, 0)
    row = quota_sql.grants(user_id)[grant]
    assert (row.tokens_burned, row.closed_at is None) == (20, False)
    quota_sql.end_period(user_id)
    assert look(quota_sql, user_id).tokens_limit == 100
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_the_short_cut_does_not_pass_over_an_expiry(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    quota_sql.expire_grant(user_id, quota_sql.grant(user_id, 50, days=1))
    assert not quota_sql.reserve(user_id, 101).granted
    other = quota_sql.user(tokens_limit=100)
    quota_sql.expire_grant(other, quota_sql.grant(other, 50, days=1))
    # The reservation fits both with and without the expired top-up.
    assert quota_sql.reserve(other, 100).granted
    assert quota_sql.quota(other).tokens_limit == 100


@pytest.mark.every_server
def test_expiry_counts_what_is_promised_as_used(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    grant = quota_sql.grant(user_id, 50, days=1)
    held = quota_sql.reserve(user_id, 130)
    quota_sql.expire_grant(user_id, grant)
    assert look(quota_sql, user_id).tokens_limit == 130
    assert burned(quota_sql, user_id) == {grant: 30}
    quota_sql.settle(user_id, held.id, 10, 0)
    # The burned part of the top-up may still be used in this period, but not later.
    assert quota_sql.reserve(user_id, 120).granted
    assert not quota_sql.reserve(user_id, 1).granted
    quota_sql.end_period(user_id)
    assert look(quota_sql, user_id).tokens_limit == 100
    quota_sql.balance(user_id)


@pytest.mark.every_server
@pytest.mark.parametrize(("used", "limit"), [(80, 140), (115, 140), (130, 130), (999, 100)])
def test_expiry_in_a_period_that_ended_unseen(quota_sql: QuotaSql, used: int, limit: int) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    soon, never = quota_sql.grant(user_id, 20, days=1), quota_sql.grant(user_id, 40)
    quota_sql.add(user_id, used)
    quota_sql.expire_grant(user_id, soon)
    quota_sql.end_period(user_id)
    told = quota_sql.usage(user_id)
    quota = look(quota_sql, user_id)
    assert (quota.tokens_limit, told.tokens_limit, told.tokens_granted) == (limit, limit, limit - 100)
    over = max(used - 100, 0)
    assert burned(quota_sql, user_id) == {soon: min(over, 20), never: min(max(over - 20, 0), 40)}
    assert quota.grants_expire_at is None
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_unlimited_needs_no_top_up(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=None, cost_limit=1)
    grant = quota_sql.grant(user_id, 50, 1)
    quota_sql.add(user_id, 10**9, 3)
    quota_sql.end_period(user_id)
    quota = look(quota_sql, user_id)
    assert (quota.tokens_limit, quota.tokens_granted, quota.cost_limit, quota.cost_granted) == (None, 50, 1, 0)
    assert burned(quota_sql, user_id) == {grant: 0}
    assert quota_sql.usage(user_id).tokens_limit is None


def test_plan_and_own_limits_change_below_the_top_ups(client: Any) -> None:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    client.quotas.grant(user, tokens=5, cost="0.5")
    for plan, tokens, cost in (("pro", 10_000_005, "100.5"), ("free", 1_000_005, "10.5")):
        user = client.users.set_plan(user, plan)
        usage = client.quotas.usage(user)
        assert (usage.tokens_limit, usage.cost_limit, usage.tokens_granted) == (tokens, Decimal(cost), 5)
    usage = client.quotas.set_limits(user, tokens=100)
    assert (usage.tokens_limit, usage.tokens_granted, usage.cost_limit) == (105, 5, Decimal("10.5"))
    assert client.quotas.set_limits(user, tokens=None).tokens_granted == 5
    assert client.quotas.set_limits(user, tokens=0).tokens_limit == 5
    assert client.quotas.reserve(user, tokens=5).tokens == 5
    with pytest.raises(QuotaExceeded) as refused:
        client.quotas.reserve(user, tokens=1)
    assert refused.value.limit == 5
    assert client.quotas.use_plan_limits(user).tokens_limit == 1_000_005


def test_limits_that_are_set_do_not_reach_back_into_an_ended_period(client: Any, quota_sql: QuotaSql) -> None:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    client.quotas.set_limits(user, tokens=100)
    client.quotas.grant(user, tokens=50)
    client.quotas.add_tokens(user, 150)
    quota_sql.end_period(user.id)
    # The whole top-up was used in the ended period.
    assert client.quotas.set_limits(user, tokens=1000).tokens_limit == 1000
    (period,) = client.quotas.history(user)
    assert period.tokens_limit == 150


def test_granting_again_changes_nothing(client: Any) -> None:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    key = uuid.uuid4()
    first = client.quotas.grant(user, tokens=50, cost="0.25", reason="ticket 7", grant_id=key)
    assert (first.id, first.tokens, first.cost, first.reason) == (key, 50, Decimal("0.25"), "ticket 7")
    assert (first.tokens_burned, first.closed_at, first.expires_at) == (0, None, None)
    again = client.quotas.grant(user, tokens=50, cost="0.25", expires_in=timedelta(days=1), grant_id=key)
    assert again == first
    assert client.quotas.usage(user).tokens_granted == 50
    told = [event.meta for event in client.events.recent(user) if event.type == "quota.granted"]
    assert [{name: meta[name] for name in ("grant", "tokens", "cost", "reason")} for meta in told] == [
        {"grant": str(key), "tokens": 50, "cost": "0.25", "reason": "ticket 7"}
    ]
    # The id of a top-up of one user is free for another user.
    other = client.users.create(f"{uuid.uuid4().hex}@example.com")
    assert client.quotas.grant(other, tokens=1, grant_id=key).tokens == 1
    assert [grant.tokens for grant in client.quotas.grants(user)] == [50]


def test_open_top_ups_are_told_first_and_the_soonest_to_expire_first(client: Any, quota_sql: QuotaSql) -> None:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    end = datetime.now(UTC) + timedelta(days=9)
    never = client.quotas.grant(user, tokens=1)
    at = client.quotas.grant(user, tokens=2, expires_at=end)
    soon = client.quotas.grant(user, tokens=3, expires_in=timedelta(days=1))
    over = client.quotas.grant(user, tokens=4, expires_in=timedelta(days=1))
    quota_sql.expire_grant(user.id, over.id)
    assert client.quotas.usage(user).tokens_granted == 6
    client.quotas.add_tokens(user, 0)
    assert [grant.id for grant in client.quotas.grants(user)] == [soon.id, at.id, never.id, over.id]
    assert at.expires_at == end
    assert timedelta(hours=23) < soon.expires_at - soon.created_at <= timedelta(days=1)


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("tokens", {}),
        ("tokens", {"tokens": 0, "cost": 0}),
        ("tokens", {"tokens": -1}),
        ("tokens", {"tokens": True}),
        ("tokens", {"tokens": 1.5}),
        ("tokens", {"tokens": 10**12 + 1}),
        ("cost", {"cost": "-0.01"}),
        ("cost", {"cost": "NaN"}),
        ("cost", {"cost": 0.5}),
        ("cost", {"cost": "Infinity"}),
        ("expires_at", {"tokens": 1, "expires_at": datetime(2999, 1, 1)}),  # noqa: DTZ001
        ("expires_at", {"tokens": 1, "expires_at": datetime(2999, 1, 1, tzinfo=UTC), "expires_in": timedelta(1)}),
    ],
)
def test_what_is_no_top_up_is_named_before_the_database_is_asked(field: str, asked: dict[str, Any]) -> None:
    plan = limits.grant(SimpleNamespace(id=uuid.uuid4()), grant_id=uuid.uuid4(), **asked)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as refused:
        for effect in plan:
            assert isinstance(effect, (Begin, Rollback))
    assert refused.value.field == field


def test_what_only_the_database_can_tell_is_refused_whole(client: Any) -> None:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    for asked in (
        {"tokens": 1, "expires_in": timedelta(0)},
        {"tokens": 1, "expires_in": timedelta(days=-1)},
        {"tokens": 1, "expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"tokens": 1, "reason": "x" * 501},
        # This amount rounds to zero.
        {"cost": "0.0000000001"},
    ):
        with pytest.raises(InvalidInput):
            client.quotas.grant(user, **asked)
    assert client.quotas.grants(user) == []
    assert client.quotas.usage(user).tokens_granted == 0
    ghost = evolve(user, id=uuid.uuid4())
    with pytest.raises(NotFound):
        client.quotas.grant(ghost, tokens=1)


def test_refusal_does_not_hope_for_top_ups_that_are_used(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    quota_sql.value("SELECT quota_grant(%s, gen_random_uuid(), 50, 0, NULL, '')", user_id)
    used = quota_sql.reserve(user_id, 150)
    quota_sql.settle(user_id, used.id, 150)
    assert quota_sql.reserve(user_id, 120).retry_after is None
    assert quota_sql.reserve(user_id, 100).retry_after is not None
