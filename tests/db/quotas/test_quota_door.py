"""Promises of quota: granted whole or refused whole, ended once, and the counters match the ledger after anything."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from doors import TTL, Door
from psycopg import errors

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
def test_one_refusing_dimension_leaves_all_others_alone(door: Door, limits: dict[str, object], dimension: str) -> None:
    user_id = door.user(**limits)
    before = door.quota(user_id)
    refused = door.reserve(user_id, 100, cost=1, slots=1, requests=1, builds=1)
    assert (refused.granted, refused.state, refused.dimension) == (False, "refused", dimension)
    # More than the whole limit is never granted.
    assert refused.retry_after is None
    assert door.quota(user_id) == before
    assert door.value("SELECT count(*) FROM quota_reservations WHERE user_id = %s", user_id) == 0


@pytest.mark.every_server
def test_no_limit_is_unlimited(door: Door) -> None:
    user_id = door.user()
    granted = door.reserve(user_id, 10**12, min_tokens=1, cost=10**9, slots=10**6, requests=10**6, builds=10**6)
    assert granted.granted
    assert granted.tokens == 10**12
    door.balance(user_id)


@pytest.mark.every_server
def test_grant_is_elastic_down_to_its_minimum(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    assert door.reserve(user_id, 70).tokens == 70
    granted = door.reserve(user_id, 70, min_tokens=30)
    assert (granted.granted, granted.tokens) == (True, 30)
    refused = door.reserve(user_id, 70, min_tokens=1)
    assert (refused.granted, refused.dimension, refused.remaining) == (False, "tokens", 0)
    quota = door.quota(user_id)
    assert timedelta(0) < refused.retry_after <= TTL
    assert quota.tokens_held == refused.held == 100


# Idempotence.


@pytest.mark.every_server
def test_reserving_again_repeats_the_first_answer(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    first = door.reserve(user_id, 90, cost=1, slots=1, requests=1, builds=1)
    before = door.quota(user_id)
    again = door.reserve(user_id, 90, cost=1, slots=1, requests=1, builds=1, key=first.id)
    assert (again.granted, again.repeated, again.state) == (True, True, "held")
    assert (again.tokens, again.epoch, again.expires_at) == (first.tokens, first.epoch, first.expires_at)
    assert door.quota(user_id) == before
    door.settle(user_id, first.id, 10, 0)
    settled = door.reserve(user_id, 90, key=first.id)
    assert (settled.granted, settled.repeated, settled.state, settled.tokens) == (True, True, "settled", 90)
    assert door.quota(user_id).tokens_held == 0


@pytest.mark.every_server
def test_settling_again_changes_nothing(door: Door) -> None:
    user_id = door.user(tokens_limit=1000)
    granted = door.reserve(user_id, 100, cost="0.5", slots=2, meta={"model": "large"})
    first = door.settle(user_id, granted.id, 40, "0.123456789", {"agent": "ada"})
    assert (first.outcome, first.tokens, first.cost, first.overrun) == ("settled", 40, Decimal("0.123456789"), False)
    # Its commit does not wait for the disk; the session's later ones do.
    assert door.value("SHOW synchronous_commit") == "on"
    again = door.settle(user_id, granted.id, 99, 9)
    assert (again.outcome, again.tokens, again.cost) == ("repeated", 40, Decimal("0.123456789"))
    assert door.ledger(user_id) == [("tokens", 40, Decimal("0.123456789"))]
    assert door.value("SELECT meta FROM usage_ledger WHERE user_id = %s", user_id) == {"model": "large", "agent": "ada"}
    quota = door.quota(user_id)
    assert (quota.tokens_used, quota.cost_used, quota.containers_used) == (40, Decimal("0.123456789"), 0)
    door.balance(user_id)


@pytest.mark.every_server
def test_what_was_never_granted_cannot_be_settled(door: Door) -> None:
    user_id = door.user()
    other = door.reserve(door.user(), 5)
    for key in (uuid.uuid4(), other.id):
        assert door.settle(user_id, key, 5, 0).outcome == "unknown"
        assert door.release(user_id, key).outcome == "unknown"
        assert door.extend(user_id, key, 5).state == "unknown"
    assert door.ledger(user_id) == []


@pytest.mark.every_server
def test_overrun_is_charged_and_marked(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    granted = door.reserve(user_id, 100)
    assert door.settle(user_id, granted.id, 130, 0).overrun
    assert door.quota(user_id).tokens_used == 130
    refused = door.reserve(user_id, 1)
    assert (refused.dimension, refused.remaining) == ("tokens", 0)
    assert door.value("SELECT meta->'overrun' FROM usage_ledger WHERE user_id = %s", user_id) is True
    door.balance(user_id)


@pytest.mark.every_server
def test_released_promise_charges_nothing_and_its_id_is_spent(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    granted = door.reserve(user_id, 100, cost=1, slots=1)
    assert door.release(user_id, granted.id).outcome == "released"
    assert door.release(user_id, granted.id).outcome == "repeated"
    again = door.reserve(user_id, 100, key=granted.id)
    assert (again.granted, again.state) == (False, "released")
    quota = door.quota(user_id)
    assert (quota.tokens_held, quota.tokens_used, quota.cost_held, quota.containers_used) == (0, 0, 0, 0)
    door.balance(user_id)


@pytest.mark.every_server
@pytest.mark.parametrize("end", ["settle", "release"])
def test_stream_that_breaks_off_is_charged_for_its_progress(door: Door, end: str) -> None:
    user_id = door.user(tokens_limit=100)
    granted = door.reserve(user_id, 100, cost=1)
    for tokens, cost in ((30, "0.3"), (20, "0.4")):
        assert door.value("SELECT quota_progress(%s, %s, %s::bigint, %s::numeric)", user_id, granted.id, tokens, cost)
    ended = getattr(door, end)(user_id, granted.id)
    assert (ended.tokens, ended.cost) == (30, Decimal("0.4"))
    assert not door.value("SELECT quota_progress(%s, %s, 50::bigint, 0::numeric)", user_id, granted.id)
    door.balance(user_id)


@pytest.mark.every_server
def test_settling_without_amounts_charges_the_promise_when_nothing_had_progressed(door: Door) -> None:
    user_id = door.user()
    unknown = door.settle(user_id, door.reserve(user_id, 100, cost=1).id)
    assert (unknown.tokens, unknown.cost, unknown.overrun) == (100, 1, False)
    nothing = door.settle(user_id, door.reserve(user_id, 100, cost=1).id, 0, 0)
    assert (nothing.tokens, nothing.cost) == (0, 0)
    door.balance(user_id)


@pytest.mark.every_server
def test_extending_asks_the_limits_again(door: Door) -> None:
    user_id = door.user(tokens_limit=100, cost_limit=1)
    granted = door.reserve(user_id, 50, cost="0.5", ttl=timedelta(minutes=1))
    more = door.extend(user_id, granted.id, 50, "0.5", timedelta(hours=1))
    assert (more.granted, more.tokens, more.cost) == (True, 100, 1)
    assert more.expires_at > granted.expires_at + timedelta(minutes=50)
    assert door.extend(user_id, granted.id, ttl=timedelta(seconds=1)).expires_at == more.expires_at
    assert door.extend(user_id, granted.id, 1).dimension == "tokens"
    assert door.extend(user_id, granted.id, 0, "0.000000001").dimension == "cost"
    door.expire(granted.id)
    assert door.extend(user_id, granted.id, ttl=TTL).granted is True
    door.expire(granted.id)
    lost = door.extend(user_id, granted.id, 1)
    assert (lost.granted, lost.state, lost.dimension) == (False, "expired", None)
    door.balance(user_id)


# Expiry.


@pytest.mark.every_server
def test_expired_hold_is_charged_and_its_slot_comes_free(door: Door) -> None:
    user_id = door.user(tokens_limit=1000, containers_limit=1)
    lost = door.reserve(user_id, 100, cost="0.5", slots=1, holder="a")
    refused = door.reserve(user_id, slots=1)
    assert (refused.dimension, refused.resets_at) == ("containers", lost.expires_at)
    assert timedelta(0) < refused.retry_after <= TTL
    door.expire(lost.id)
    granted = door.reserve(user_id, slots=1, holder="b")
    assert granted.granted
    assert granted.epoch > lost.epoch
    quota = door.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.cost_used, quota.containers_used) == (100, 0, Decimal("0.5"), 1)
    assert door.ledger(user_id) == [("expired", 100, Decimal("0.5"))]
    assert door.extend(user_id, lost.id, ttl=TTL).state == "expired"
    assert door.reserve(user_id, slots=1, key=lost.id).granted is False
    door.balance(user_id)


@pytest.mark.every_server
def test_expired_tokens_stay_charged_so_they_make_no_room(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    door.expire(door.reserve(user_id, 100).id)
    assert door.reserve(user_id, 1).granted is False
    quota = door.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held) == (100, 0)


@pytest.mark.every_server
def test_late_settlement_corrects_the_charge_exactly_once(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    granted = door.reserve(user_id, 100, cost=1)
    door.expire(granted.id)
    door.reserve(user_id, 1)
    assert door.quota(user_id).tokens_used == 100
    late = door.settle(user_id, granted.id, 30, "0.25")
    assert (late.outcome, late.tokens, late.cost, late.overrun) == ("corrected", 30, Decimal("0.25"), False)
    assert door.settle(user_id, granted.id, 10, 0).outcome == "repeated"
    assert door.ledger(user_id) == [("expired", 100, 1), ("tokens", -70, Decimal("-0.75"))]
    quota = door.quota(user_id)
    assert (quota.tokens_used, quota.cost_used) == (30, Decimal("0.25"))
    door.balance(user_id)


@pytest.mark.every_server
def test_settling_an_expired_hold_before_anybody_ended_it_is_no_correction(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    granted = door.reserve(user_id, 100)
    door.expire(granted.id)
    assert door.settle(user_id, granted.id, 30, 0).outcome == "settled"
    assert door.ledger(user_id) == [("tokens", 30, 0)]


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
def test_what_is_no_amount_is_refused_before_anything_changes(door: Door) -> None:
    user_id = door.user()
    before = door.quota(user_id)
    for asked in NOT_ALLOWED:
        with pytest.raises(errors.InvalidParameterValue):
            door.reserve(user_id, **asked)
    granted = door.reserve(user_id, 10)
    for tokens, cost in ((-1, 0), (10**12 + 1, 0), (1, "NaN"), (1, -1), (1, "Infinity")):
        for call in (door.settle, door.extend, lambda u, _, t, c: door.add(u, t, c)):
            with pytest.raises(errors.InvalidParameterValue):
                call(user_id, granted.id, tokens, cost)
    door.release(user_id, granted.id)
    after = door.quota(user_id)
    assert (after.tokens_used, after.tokens_held) == (before.tokens_used, before.tokens_held)
    with pytest.raises(errors.ForeignKeyViolation):
        door.reserve(uuid.uuid4(), 1)


@pytest.mark.every_server
def test_money_is_exact_and_a_promise_rounds_up(door: Door) -> None:
    user_id = door.user(cost_limit="0.3")
    for _ in range(3):
        granted = door.reserve(user_id, cost="0.1")
        door.settle(user_id, granted.id, 0, "0.1")
    assert door.quota(user_id).cost_used == Decimal("0.3")
    assert door.reserve(user_id, cost="0.00000000000001").dimension == "cost"


@pytest.mark.every_server
def test_tenant_cannot_reach_the_quota_of_another(door: Door) -> None:
    one, two = door.user(), door.user()
    role = f"atlas_test_{uuid.uuid4().hex}"
    door.connection.execute(f"CREATE ROLE {role}")
    door.connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    with door.connection.transaction():
        door.connection.execute(f"SET LOCAL ROLE {role}")
        door.connection.execute(f"SET LOCAL atlas.user_id = '{one}'")
        assert door.settle(one, door.reserve(one, 5).id, 5, 0).outcome == "settled"
        with pytest.raises(errors.InsufficientPrivilege), door.connection.transaction():
            door.reserve(two, 5)
    door.connection.execute(f"DROP OWNED BY {role}")
    door.connection.execute(f"DROP ROLE {role}")
