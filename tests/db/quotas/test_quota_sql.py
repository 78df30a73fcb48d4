"""Reservations: granted or refused as a whole, and ended once. The counters always match the ledger."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg import errors
from quota_sql import TTL, QuotaSql

# Grants.


@pytest.mark.every_server
@pytest.mark.parametrize(
    ("limits", "dimension"),
    [
        ({"tokens_limit": 99}, "tokens"),
        ({"cost_limit": "0.999999999"}, "cost"),
        ({"builds_limit": 0}, "builds"),
        ({"containers_limit": 0}, "containers"),
        ({"requests_limit": 0}, "requests"),
    ],
)
def test_one_refusing_dimension_leaves_all_others_alone(
    quota_sql: QuotaSql, limits: dict[str, object], dimension: str
) -> None:
    user_id = quota_sql.user(**limits)
    before = quota_sql.quota(user_id)
    refused = quota_sql.reserve(user_id, 100, cost=1, slots=1, requests=1, builds=1)
    assert (refused.granted, refused.state, refused.dimension) == (False, "refused", dimension)
    # A call for more than the whole limit can never succeed.
    assert refused.retry_after is None
    assert quota_sql.quota(user_id) == before
    assert quota_sql.value("SELECT count(*) FROM quota_reservations WHERE user_id = %s", user_id) == 0


@pytest.mark.every_server
def test_no_limit_is_unlimited(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    granted = quota_sql.reserve(user_id, 10**12, min_tokens=1, cost=10**9, slots=10**6, requests=10**6, builds=10**6)
    assert granted.granted
    assert granted.tokens == 10**12
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_grant_is_elastic_down_to_its_minimum(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    assert quota_sql.reserve(user_id, 70).tokens == 70
    granted = quota_sql.reserve(user_id, 70, min_tokens=30)
    assert (granted.granted, granted.tokens) == (True, 30)
    refused = quota_sql.reserve(user_id, 70, min_tokens=1)
    assert (refused.granted, refused.dimension, refused.remaining) == (False, "tokens", 0)
    quota = quota_sql.quota(user_id)
    assert refused.resets_at == quota.period_end
    assert quota.tokens_held == refused.held == 100


# Idempotence.


@pytest.mark.every_server
def test_reserving_again_repeats_the_first_answer(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    first = quota_sql.reserve(user_id, 90, cost=1, slots=1, requests=1, builds=1)
    before = quota_sql.quota(user_id)
    again = quota_sql.reserve(user_id, 90, cost=1, slots=1, requests=1, builds=1, key=first.id)
    assert (again.granted, again.repeated, again.state) == (True, True, "held")
    assert (again.tokens, again.epoch, again.expires_at) == (first.tokens, first.epoch, first.expires_at)
    assert quota_sql.quota(user_id) == before
    quota_sql.settle(user_id, first.id, 10, 0)
    settled = quota_sql.reserve(user_id, 90, cost=1, slots=1, requests=1, builds=1, key=first.id)
    assert (settled.granted, settled.repeated, settled.state, settled.tokens) == (True, True, "settled", 90)
    assert quota_sql.quota(user_id).tokens_held == 0


@pytest.mark.every_server
def test_settling_again_changes_nothing(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=1000)
    granted = quota_sql.reserve(user_id, 100, cost="0.5", slots=2, meta={"model": "large"})
    first = quota_sql.settle(user_id, granted.id, 40, "0.123456789", {"agent": "ada"})
    assert (first.outcome, first.tokens, first.cost, first.overrun) == ("settled", 40, Decimal("0.123456789"), False)
    # The settlement's commit does not wait for the disk. Later commits of the session do.
    assert quota_sql.value("SHOW synchronous_commit") == "on"
    again = quota_sql.settle(user_id, granted.id, 99, 9)
    assert (again.outcome, again.tokens, again.cost) == ("repeated", 40, Decimal("0.123456789"))
    assert quota_sql.ledger(user_id) == [("tokens", 40, Decimal("0.123456789"))]
    assert quota_sql.value("SELECT meta FROM usage_ledger WHERE user_id = %s", user_id) == {
        "model": "large",
        "agent": "ada",
    }
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.cost_used, quota.containers_used) == (40, Decimal("0.123456789"), 0)
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_what_was_never_granted_cannot_be_settled(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    other = quota_sql.reserve(quota_sql.user(), 5)
    for key in (uuid.uuid4(), other.id):
        assert quota_sql.settle(user_id, key, 5, 0).outcome == "unknown"
        assert quota_sql.release(user_id, key).outcome == "unknown"
        assert quota_sql.extend(user_id, key, 5).state == "unknown"
    assert quota_sql.ledger(user_id) == []


@pytest.mark.every_server
def test_overrun_is_charged_and_marked(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    granted = quota_sql.reserve(user_id, 100)
    assert quota_sql.settle(user_id, granted.id, 130, 0).overrun
    assert quota_sql.quota(user_id).tokens_used == 130
    refused = quota_sql.reserve(user_id, 1)
    assert (refused.dimension, refused.remaining) == ("tokens", 0)
    assert quota_sql.value("SELECT meta->'overrun' FROM usage_ledger WHERE user_id = %s", user_id) is True
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_released_promise_charges_nothing_and_its_id_is_spent(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    granted = quota_sql.reserve(user_id, 100, cost=1, slots=1)
    assert quota_sql.release(user_id, granted.id).outcome == "released"
    assert quota_sql.release(user_id, granted.id).outcome == "repeated"
    again = quota_sql.reserve(user_id, 100, cost=1, slots=1, key=granted.id)
    assert (again.granted, again.state) == (False, "released")
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_held, quota.tokens_used, quota.cost_held, quota.containers_used) == (0, 0, 0, 0)
    quota_sql.balance(user_id)


@pytest.mark.every_server
@pytest.mark.parametrize("end", ["settle", "release"])
def test_stream_that_breaks_off_is_charged_for_its_progress(quota_sql: QuotaSql, end: str) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    granted = quota_sql.reserve(user_id, 100, cost=1)
    for tokens, cost in ((30, "0.3"), (20, "0.4")):
        assert quota_sql.value(
            "SELECT quota_progress(%s, %s, %s::bigint, %s::numeric)", user_id, granted.id, tokens, cost
        )
    ended = getattr(quota_sql, end)(user_id, granted.id)
    assert (ended.tokens, ended.cost) == (30, Decimal("0.4"))
    assert not quota_sql.value("SELECT quota_progress(%s, %s, 50::bigint, 0::numeric)", user_id, granted.id)
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_settling_without_amounts_charges_the_promise_when_nothing_had_progressed(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    unknown = quota_sql.settle(user_id, quota_sql.reserve(user_id, 100, cost=1).id)
    assert (unknown.tokens, unknown.cost, unknown.overrun) == (100, 1, False)
    nothing = quota_sql.settle(user_id, quota_sql.reserve(user_id, 100, cost=1).id, 0, 0)
    assert (nothing.tokens, nothing.cost) == (0, 0)
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_extending_asks_the_limits_again(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=1)
    granted = quota_sql.reserve(user_id, 50, cost="0.5", ttl=timedelta(minutes=1))
    more = quota_sql.extend(user_id, granted.id, 50, "0.5", timedelta(hours=1))
    assert (more.granted, more.tokens, more.cost) == (True, 100, 1)
    assert more.expires_at > granted.expires_at + timedelta(minutes=50)
    assert quota_sql.extend(user_id, granted.id, ttl=timedelta(seconds=1)).expires_at == more.expires_at
    assert quota_sql.extend(user_id, granted.id, 1).dimension == "tokens"
    assert quota_sql.extend(user_id, granted.id, 0, "0.000000001").dimension == "cost"
    quota_sql.expire(granted.id)
    assert quota_sql.extend(user_id, granted.id, ttl=TTL).granted is True
    quota_sql.expire(granted.id)
    lost = quota_sql.extend(user_id, granted.id, 1)
    assert (lost.granted, lost.state, lost.dimension) == (False, "expired", None)
    quota_sql.balance(user_id)


# Expiry.


@pytest.mark.every_server
def test_expired_hold_is_charged_and_its_slot_comes_free(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=1000, containers_limit=1)
    lost = quota_sql.reserve(user_id, 100, cost="0.5", slots=1, holder="a")
    refused = quota_sql.reserve(user_id, slots=1)
    assert (refused.dimension, refused.resets_at) == ("containers", lost.expires_at)
    assert timedelta(0) < refused.retry_after <= TTL
    quota_sql.expire(lost.id)
    granted = quota_sql.reserve(user_id, slots=1, holder="b")
    assert granted.granted
    assert granted.epoch > lost.epoch
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.cost_used, quota.containers_used) == (100, 0, Decimal("0.5"), 1)
    assert quota_sql.ledger(user_id) == [("expired", 100, Decimal("0.5"))]
    assert quota_sql.extend(user_id, lost.id, ttl=TTL).state == "expired"
    assert quota_sql.reserve(user_id, slots=1, key=lost.id).granted is False
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_expired_tokens_stay_charged_so_they_make_no_room(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    quota_sql.expire(quota_sql.reserve(user_id, 100).id)
    assert quota_sql.reserve(user_id, 1).granted is False
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held) == (100, 0)


@pytest.mark.every_server
def test_late_settlement_corrects_the_charge_exactly_once(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    granted = quota_sql.reserve(user_id, 100, cost=1)
    quota_sql.expire(granted.id)
    quota_sql.reserve(user_id, 1)
    assert quota_sql.quota(user_id).tokens_used == 100
    late = quota_sql.settle(user_id, granted.id, 30, "0.25")
    assert (late.outcome, late.tokens, late.cost, late.overrun) == ("corrected", 30, Decimal("0.25"), False)
    assert quota_sql.settle(user_id, granted.id, 10, 0).outcome == "repeated"
    assert quota_sql.ledger(user_id) == [("expired", 100, 1), ("tokens", -70, Decimal("-0.75"))]
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.cost_used) == (30, Decimal("0.25"))
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_settling_an_expired_hold_before_anybody_ended_it_is_no_correction(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    granted = quota_sql.reserve(user_id, 100)
    quota_sql.expire(granted.id)
    assert quota_sql.settle(user_id, granted.id, 30, 0).outcome == "settled"
    assert quota_sql.ledger(user_id) == [("tokens", 30, 0)]


# Bad input, money, tenants.

NOT_ALLOWED: list[dict[str, object]] = [
    {},
    {"tokens": -1},
    {"tokens": 10**12 + 1},
    {"tokens": 10, "min_tokens": 0},
    {"tokens": 10, "min_tokens": 11},
    {"tokens": 10, "min_tokens": -1},
    {"cost": "NaN"},
    {"cost": "Infinity"},
    {"cost": -1},
    {"cost": "-0.1"},
    {"cost": 10**9 + 1},
    {"slots": -1},
    {"requests": -1},
    {"builds": -1},
    {"requests": 10**6 + 1},
    {"tokens": 1, "ttl": timedelta(0)},
    {"tokens": 1, "ttl": timedelta(seconds=-1)},
    {"tokens": 1, "ttl": timedelta(hours=24, seconds=1)},
    {"tokens": 1, "ttl": None},
    {"tokens": 1, "key": None},
    {"tokens": 1, "meta": []},
    {"tokens": 1, "meta": {"x": "x" * 20_000}},
    {"tokens": 1, "holder": "x" * 201},
]


@pytest.mark.every_server
def test_what_is_no_amount_is_refused_before_anything_changes(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    before = quota_sql.quota(user_id)
    for asked in NOT_ALLOWED:
        with pytest.raises(errors.InvalidParameterValue):
            quota_sql.reserve(user_id, **asked)
    granted = quota_sql.reserve(user_id, 10)
    for tokens, cost in ((-1, 0), (10**12 + 1, 0), (1, "NaN"), (1, -1), (1, "Infinity")):
        for call in (quota_sql.settle, quota_sql.extend, lambda u, _, t, c: quota_sql.add(u, t, c)):
            with pytest.raises(errors.InvalidParameterValue):
                call(user_id, granted.id, tokens, cost)
    quota_sql.release(user_id, granted.id)
    after = quota_sql.quota(user_id)
    assert (after.tokens_used, after.tokens_held) == (before.tokens_used, before.tokens_held)
    with pytest.raises(errors.ForeignKeyViolation):
        quota_sql.reserve(uuid.uuid4(), 1)


@pytest.mark.every_server
def test_money_is_exact_and_a_promise_rounds_up(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(cost_limit="0.3")
    for _ in range(3):
        granted = quota_sql.reserve(user_id, cost="0.1")
        quota_sql.settle(user_id, granted.id, 0, "0.1")
    assert quota_sql.quota(user_id).cost_used == Decimal("0.3")
    assert quota_sql.reserve(user_id, cost="0.00000000000001").dimension == "cost"


@pytest.mark.every_server
def test_tenant_cannot_reach_the_quota_of_another(quota_sql: QuotaSql) -> None:
    one, two = quota_sql.user(), quota_sql.user()
    role = f"atlas_test_{uuid.uuid4().hex}"
    quota_sql.connection.execute(f"CREATE ROLE {role}")
    quota_sql.connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    with quota_sql.connection.transaction():
        quota_sql.connection.execute(f"SET LOCAL ROLE {role}")
        quota_sql.connection.execute(f"SET LOCAL atlas.user_id = '{one}'")
        assert quota_sql.settle(one, quota_sql.reserve(one, 5).id, 5, 0).outcome == "settled"
        with pytest.raises(errors.InsufficientPrivilege), quota_sql.connection.transaction():
            quota_sql.reserve(two, 5)
    quota_sql.connection.execute(f"DROP OWNED BY {role}")
    quota_sql.connection.execute(f"DROP ROLE {role}")
