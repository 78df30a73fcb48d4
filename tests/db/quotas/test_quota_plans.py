"""Plans: their limits apply to every user of the plan, but limits that were set for one user stay."""

from __future__ import annotations

import threading
import uuid
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from guard_adapter import until, waiting
from patience import PATIENCE_S
from quota_sql import QuotaSql

from atlas_sdk import AlreadyExists, Atlas, InvalidInput, NotFound, QuotaExceeded
from atlas_sdk.ops import limits


def new_user(client: Any, plan: str = "free") -> Any:
    return client.users.create(f"{uuid.uuid4().hex}@example.com", plan=plan)


def new_plan(client: Any, **changed: Any) -> str:
    """Make a plan for this test only, because other tests use the existing plans."""
    allowed = {"tokens": 1000, "cost": "2.5", "containers": 3, "requests_per_hour": 40, "builds_per_day": 5}
    name = f"p{uuid.uuid4().hex[:30]}"
    client.quotas.add_plan(name, **{**allowed, **changed})
    return name


def told(quota_sql: QuotaSql, kind: str, **meta: Any) -> list[Any]:
    """Return the data of the events of a type about a plan or a user."""
    rows = quota_sql.connection.execute(
        "SELECT user_id, meta FROM events WHERE type = %s ORDER BY created_at, id", (kind,)
    )
    return [row["meta"] for row in rows if meta.items() <= {**row["meta"], "user_id": row["user_id"]}.items()]


def allowed(usage: Any) -> tuple[Any, ...]:
    return (
        *(usage.tokens_limit, usage.cost_limit, usage.slots_limit),
        *(usage.requests_limit, usage.builds_limit),
    )


# Contents of a plan.


def test_a_database_begins_with_three_plans(client: Any) -> None:
    known = {plan.name: plan for plan in client.quotas.plans()}
    pro = known["pro"]
    assert {"free", "pro", "enterprise"} <= set(known)
    assert (pro.tokens, pro.cost, pro.containers) == (10_000_000, 100, 10)
    assert (pro.requests_per_hour, pro.builds_per_day, pro.memory_bytes) == (1000, 100, 2**30)
    assert pro.memory_hard is False
    assert client.quotas.plan_limits("pro") == pro
    assert [plan.name for plan in client.quotas.plans() if plan.name in {"free", "pro", "enterprise"}] == [
        *("free", "pro", "enterprise")
    ]


def test_a_new_plan_gives_its_users_what_it_allows(client: Any, quota_sql: QuotaSql) -> None:
    name = new_plan(client, tokens=None, memory_bytes=77, memory_hard=True)
    plan = client.quotas.plan_limits(name)
    assert (plan.tokens, plan.cost, plan.containers) == (None, Decimal("2.5"), 3)
    user = new_user(client, name)
    assert allowed(client.quotas.usage(user)) == (None, Decimal("2.5"), 3, 40, 5)
    quota = quota_sql.quota(user.id)
    assert (quota.memory_limit, quota.memory_hard, quota.overridden) == (77, True, [])
    (event,) = told(quota_sql, "quota.plan_limits_changed", plan=name, user_id=uuid.UUID(int=0))
    assert event["limits"]["tokens"] is None
    assert (event["limits"]["cost"], event["limits"]["memory_hard"]) == ("2.5", True)
    with pytest.raises(AlreadyExists):
        client.quotas.add_plan(name, tokens=1, cost=1, containers=1, requests_per_hour=1, builds_per_day=1)
    assert client.quotas.plan_limits(name) == plan


def test_what_is_no_plan_is_refused(client: Any, quota_sql: QuotaSql) -> None:
    user = new_user(client)
    for unknown in (lambda: client.quotas.plan_limits("none"), lambda: client.quotas.set_plan_limits("none", tokens=1)):
        with pytest.raises(NotFound):
            unknown()
    for wrong in (lambda: client.users.set_plan(user, "none"), lambda: new_user(client, "none")):
        with pytest.raises(InvalidInput):
            wrong()
    for name in ("", "Pro", "1st", "a b", "x" * 41, "x\n"):
        with pytest.raises(InvalidInput, match=r"^a plan's name must be a letter and"):
            client.quotas.add_plan(name, tokens=1, cost=1, containers=1, requests_per_hour=1, builds_per_day=1)
    name = new_plan(client)
    for asked in ({"tokens": -1}, {"cost": "NaN"}, {"containers": 2**31}, {"tokens": True}, {"memory_hard": 1}):
        with pytest.raises(InvalidInput):
            client.quotas.set_plan_limits(name, **asked)
    assert len(told(quota_sql, "quota.plan_limits_changed", plan=name)) == 1
    assert client.users.get(user.id).plan == "free"


# Changes that reach users.


def test_change_of_a_plan_reaches_all_its_users_in_batches(
    client: Any, quota_sql: QuotaSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_BATCH", 2)
    name = new_plan(client)
    users = [new_user(client, name) for _ in range(5)]
    own, other = new_user(client, name), new_user(client)
    client.quotas.set_limits(own, tokens=7, requests_per_hour=None)
    client.quotas.grant(users[0], tokens=11)
    held = client.quotas.reserve(users[1], tokens=600, requests=2)
    before = client.quotas.usage(other)
    changed = client.quotas.set_plan_limits(name, tokens=500, requests_per_hour=9, cost=None)
    assert (changed.tokens, changed.cost, changed.requests_per_hour, changed.containers) == (500, None, 9, 3)
    for user in users[1:]:
        assert allowed(client.quotas.usage(user)) == (500, None, 3, 9, 5)
    assert allowed(client.quotas.usage(users[0])) == (511, None, 3, 9, 5)
    # Limits that were set for this user stay.
    usage = client.quotas.usage(own)
    assert (allowed(usage), usage.overridden) == ((7, None, 3, None, 5), ("requests", "tokens"))
    assert client.quotas.usage(other) == before
    # The existing reservation stays, and causes refusals until it is released.
    with pytest.raises(QuotaExceeded):
        client.quotas.reserve(users[1], tokens=1)
    client.quotas.release(users[1], held.id)
    assert client.quotas.reserve(users[1], tokens=500).tokens == 500
    events = told(quota_sql, "quota.plan_limits_changed", plan=name)
    assert [event["limits"] for event in events[1:]] == [{"tokens": 500, "cost": None, "requests": 9}]


def test_setting_no_limit_of_a_plan_applies_it_again(client: Any, quota_sql: QuotaSql) -> None:
    name = new_plan(client)
    user = new_user(client, name)
    # Make it look as after an interrupted change of the plan.
    quota_sql.change(user.id, tokens_limit=1)
    client.quotas.set_plan_limits(name)
    assert client.quotas.usage(user).tokens_limit == 1000
    assert len(told(quota_sql, "quota.plan_limits_changed", plan=name)) == 1


def test_another_plan_leaves_what_was_set_by_hand(client: Any, quota_sql: QuotaSql) -> None:
    user = new_user(client)
    client.quotas.add_tokens(user, 400, cost=1)
    client.quotas.set_limits(user, cost="3", containers=0, memory_bytes=5)
    moved = client.users.set_plan(user, "pro")
    assert (moved.plan, moved.id) == ("pro", user.id)
    usage = client.quotas.usage(user)
    assert allowed(usage) == (10_000_000, 3, 0, 1000, 100)
    assert (usage.tokens_used, usage.cost_used, usage.overridden) == (400, 1, ("containers", "cost", "memory"))
    assert quota_sql.quota(user.id).memory_limit == 5
    back = client.quotas.use_plan_limits(user)
    assert (allowed(back), back.overridden, back.tokens_used) == ((10_000_000, 100, 10, 1000, 100), (), 400)
    assert quota_sql.quota(user.id).memory_limit == 2**30
    (event,) = told(quota_sql, "user.plan_changed", user_id=user.id)
    assert (event["from"], event["to"]) == ("free", "pro")
    assert len(told(quota_sql, "quota.limits_of_plan", user_id=user.id)) == 1
    assert [event["limits"] for event in told(quota_sql, "quota.limits_changed", user_id=user.id)] == [
        {"cost": "3", "containers": 0, "memory": 5}
    ]
    assert client.quotas.verify(user).balanced


def test_the_same_plan_again_changes_nothing(client: Any) -> None:
    user = new_user(client)
    client.quotas.set_limits(user, tokens=3)
    before = client.quotas.usage(user)
    client.users.set_plan(user, "free")
    assert client.quotas.usage(user) == before


def test_plan_that_changes_after_a_period_has_ended_closes_it_with_its_own_limit(
    client: Any, quota_sql: QuotaSql
) -> None:
    user = new_user(client)
    client.quotas.add_tokens(user, 1_000_020)
    grant = client.quotas.grant(user, tokens=50)
    quota_sql.end_period(user.id)
    client.users.set_plan(user, "pro")
    (period,) = client.quotas.history(user)
    assert (period.tokens_limit, period.tokens_used) == (1_000_050, 1_000_020)
    assert client.quotas.usage(user).tokens_limit == 10_000_030
    assert [(known.id, known.tokens_burned) for known in client.quotas.grants(user)] == [(grant.id, 20)]


def test_who_is_not_there_has_no_limits(client: Any) -> None:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    ghost = evolve(user, id=uuid.uuid4())
    for call in (
        lambda: client.quotas.set_limits(ghost, tokens=1),
        lambda: client.quotas.use_plan_limits(ghost),
        lambda: client.quotas.set_time_zone(ghost, "UTC"),
        lambda: client.users.set_plan(ghost, "pro"),
    ):
        with pytest.raises(NotFound):
            call()


def test_time_zone_moves_days_at_once_and_months_at_their_end(client: Any, quota_sql: QuotaSql) -> None:
    user = new_user(client)
    before = client.quotas.usage(user)
    usage = client.quotas.set_time_zone(user, "asia/KOLKATA")
    assert (usage.time_zone, usage.period_start, usage.period_end) == (
        *("Asia/Kolkata", before.period_start),
        before.period_end,
    )
    # PostgreSQL takes the first five for zones: rules of POSIX, where "UTC+2" is UTC-2, and an abbreviation.
    for wrong in ("UTC+2", "+02", "CET-1CEST", "<x>-3", "CEST", "Mars/Phobos", "", "x" * 65, "UTC\0"):
        with pytest.raises(
            InvalidInput, match=r"is not the name of a time zone|must have 1 to 64 characters"
        ) as refused:
            client.quotas.set_time_zone(user, wrong)
        assert refused.value.field == "time_zone"
    assert client.quotas.usage(user).time_zone == "Asia/Kolkata"
    (event,) = told(quota_sql, "quota.time_zone_changed", user_id=user.id)
    assert event["time_zone"] == "Asia/Kolkata"


# Changes that race.


@pytest.mark.parametrize("joins", ["moves", "signs up"])
def test_plan_that_changes_while_somebody_joins_it_reaches_them(
    atlas: Atlas, dsn: str, quota_sql: QuotaSql, joins: str
) -> None:
    name = new_plan(atlas)
    mover = new_user(atlas)
    user_id = mover.id if joins == "moves" else uuid.uuid4()
    changing = threading.Thread(target=lambda: atlas.quotas.set_plan_limits(name, tokens=77))
    with quota_sql.connection.transaction():
        if joins == "moves":
            quota_sql.connection.execute("UPDATE users SET plan = %s WHERE id = %s", (name, user_id))
        else:
            quota_sql.connection.execute(
                "INSERT INTO users (id, email, plan) VALUES (%s, %s, %s)", (user_id, f"{user_id}@example.com", name)
            )
        changing.start()
        until(lambda: not changing.is_alive() or waiting(dsn))
    changing.join(PATIENCE_S)
    assert not changing.is_alive()
    assert quota_sql.quota(user_id).tokens_limit == 77
