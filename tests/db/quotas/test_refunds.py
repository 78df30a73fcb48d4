"""Refunds: a part of a charge is given back to the month and to the top-ups that paid it."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from guard_adapter import QuotaClient
from psycopg import errors
from quota_sql import QuotaSql

from atlas_sdk import IdempotencyConflict, InvalidInput, NotFound, NotPermitted
from atlas_sdk._plan import Begin, Rollback
from atlas_sdk.ops import refunds


def charged(client: Any, user: Any, tokens: int = 100, cost: str = "1", **more: Any) -> uuid.UUID:
    """Charge a reservation, and return its id."""
    held = client.quotas.reserve(user, tokens=tokens, cost=cost, **more)
    client.quotas.settle(user, held.id)
    return held.id  # type: ignore[no-any-return]


def charge(quota_sql: QuotaSql, user_id: uuid.UUID, tokens: int, cost: Any = 0) -> uuid.UUID:
    held = quota_sql.reserve(user_id, tokens, cost=cost)
    quota_sql.settle(user_id, held.id)
    return held.id  # type: ignore[no-any-return]


def used(quota_sql: QuotaSql, user_id: uuid.UUID) -> tuple[int, Decimal]:
    quota_sql.balance(user_id)
    usage = quota_sql.usage(user_id)
    return usage.tokens_used, usage.cost_used


# Through the clients.


def test_a_refund_changes_ledger_counter_and_audit_once(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = client.user(tokens=1000)
    charge_id, key = charged(client, user, meta={"model": "m"}), uuid.uuid4()
    made = client.quotas.refund(user, charge_id, tokens=30, cost="0.25", reason="ticket 7", refund_id=key)
    assert (made.id, made.reservation_id, made.repeated) == (key, charge_id, False)
    assert (made.tokens, made.cost, made.period_start) == (30, Decimal("0.25"), client.quotas.usage(user).period_start)
    again = client.quotas.refund(user, charge_id, tokens=30, cost="0.25", reason="ticket 7", refund_id=key)
    assert (again.repeated, again.tokens, again.cost) == (True, 30, Decimal("0.25"))
    usage = client.usage_of(user)
    assert (usage.tokens_used, usage.cost_used) == (70, Decimal("0.75"))
    told = [event.meta for event in client.events.recent(user) if event.type == "quota.refunded"]
    names = ("refund", "reservation", "tokens", "cost", "reason")
    assert [{name: meta[name] for name in names} for meta in told] == [
        {"refund": str(key), "reservation": str(charge_id), "tokens": 30, "cost": "0.250000000", "reason": "ticket 7"}
    ]
    row = quota_sql.row("SELECT * FROM usage_ledger WHERE user_id = %s AND corrects = %s", user.id, charge_id)
    assert (row.id, row.kind, row.amount, row.cost) == (key, "refund", -30, Decimal("-0.25"))
    assert row.meta == {"model": "m", "refund_reason": "ticket 7"}
    # The sums by kind and model tell what is left.
    (total,) = client.usage.totals(user, by="model")
    assert (total.kind, total.model, total.amount, total.cost) == ("tokens", "m", 70, Decimal("0.75"))


def test_without_amounts_all_that_is_left_is_refunded(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    charge_id, key = charged(client, user), uuid.uuid4()
    client.quotas.refund(user, charge_id, tokens=40, reason="a part")
    assert client.usage_of(user).cost_used == 1
    made = client.quotas.refund(user, charge_id, reason="the rest", refund_id=key)
    assert (made.tokens, made.cost) == (60, 1)
    again = client.quotas.refund(user, charge_id, reason="the rest", refund_id=key)
    assert (again.tokens, again.repeated) == (60, True)
    usage = client.usage_of(user)
    assert (usage.tokens_used, usage.cost_used) == (0, 0)
    with pytest.raises(InvalidInput, match="are left 0 tokens and 0.000000000 dollars"):
        client.quotas.refund(user, charge_id, reason="nothing is left")


def test_refunds_of_a_charge_never_exceed_it(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    charge_id = charged(client, user)
    charged(client, user)
    client.quotas.refund(user, charge_id, tokens=60, cost="0.6", reason="one")
    for field, asked in (("tokens", {"tokens": 41}), ("cost", {"cost": "0.400000001"}), ("cost", {"cost": 1})):
        with pytest.raises(InvalidInput, match="of the charge of") as refused:
            client.quotas.refund(user, charge_id, reason="too much", **asked)
        assert refused.value.field == field
    client.quotas.refund(user, charge_id, tokens=40, reason="two")
    usage = client.usage_of(user)
    assert (usage.tokens_used, usage.cost_used) == (100, Decimal("1.4"))


def test_an_id_is_for_one_refund(client: QuotaClient) -> None:
    user, key = client.user(tokens=1000), uuid.uuid4()
    first, second = charged(client, user), charged(client, user)
    client.quotas.refund(user, first, tokens=10, reason="one", refund_id=key)
    for charge_id, asked in ((first, {"tokens": 11}), (first, {"tokens": 10, "cost": 1}), (second, {"tokens": 10})):
        with pytest.raises(IdempotencyConflict) as refused:
            client.quotas.refund(user, charge_id, reason="one", refund_id=key, **asked)
        assert (refused.value.key, refused.value.http_status) == (str(key), 409)
    # The settlement has its row under the id of the reservation.
    with pytest.raises(IdempotencyConflict):
        client.quotas.refund(user, first, tokens=1, reason="one", refund_id=first)
    assert client.usage_of(user).tokens_used == 190
    # The id of one user is free for another user.
    other = client.user(tokens=1000)
    assert client.quotas.refund(other, charged(client, other), tokens=1, reason="one", refund_id=key).tokens == 1


def test_a_reservation_that_is_held_is_not_refunded(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    held = client.quotas.reserve(user, tokens=100)
    with pytest.raises(InvalidInput, match="still held: settle or release it") as refused:
        client.quotas.refund(user, held.id, tokens=1, reason="too soon")
    assert refused.value.field == "charge_id"
    client.quotas.release(user, held.id)
    with pytest.raises(InvalidInput, match="are left 0 tokens"):
        client.quotas.refund(user, held.id, tokens=1, reason="it cost nothing")
    assert client.usage_of(user).tokens_used == 0


def test_only_charges_of_the_user_are_refunded(client: QuotaClient) -> None:
    user, other = client.user(tokens=1000), client.user(tokens=1000)
    entry = client.usage.log(user, kind="minutes", amount=5, cost=1)
    refund = client.quotas.refund(user, charged(client, user), tokens=1, reason="one")
    for charge_id in (uuid.uuid4(), charged(client, other), entry.id, refund.id):
        with pytest.raises(NotFound) as unknown:
            client.quotas.refund(user, charge_id, reason="whose?")
        assert (unknown.value.kind, unknown.value.name) == ("charge", str(charge_id))
    client.users.delete(user)
    with pytest.raises(NotFound):
        client.quotas.refund(user, charge_id, reason="too late")


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("reason", {"reason": ""}),
        ("reason", {"reason": "x" * 501}),
        ("tokens", {"tokens": -1}),
        ("tokens", {"tokens": 0}),
        ("tokens", {"tokens": 0, "cost": "0"}),
        ("tokens", {"tokens": 1.5}),
        ("cost", {"cost": 0.5}),
        ("cost", {"cost": "-1"}),
    ],
)
def test_a_wrong_argument_is_named_before_the_database_is_asked(field: str, asked: dict[str, Any]) -> None:
    user: Any = SimpleNamespace(id=uuid.uuid4())
    with pytest.raises(InvalidInput) as refused:
        for effect in refunds.refund(user, uuid.uuid4(), refund_id=uuid.uuid4(), **{"reason": "a", **asked}):
            assert isinstance(effect, (Begin, Rollback))
    assert refused.value.field == field


# By SQL: months, top-ups, and the order of settlements and refunds.


@pytest.mark.every_server
def test_a_row_of_the_ledger_stands_for_its_reservation(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    held = quota_sql.reserve(user_id, 100)
    quota_sql.expire(held.id)
    quota_sql.settle(user_id, held.id, 100)
    late = quota_sql.value("SELECT id FROM usage_ledger WHERE user_id = %s", user_id)
    assert quota_sql.refund(user_id, late, 30).reservation_id == held.id
    added = uuid.uuid4()
    quota_sql.add(user_id, 50, key=added)
    assert quota_sql.refund(user_id, added, 50).reservation_id == added
    assert used(quota_sql, user_id) == (70, 0)


@pytest.mark.every_server
def test_an_expired_reservation_is_charged_before_its_refund(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    held = quota_sql.reserve(user_id, 100, slots=1)
    quota_sql.expire(held.id)
    assert (quota_sql.refund(user_id, held.id, 30).tokens, quota_sql.quota(user_id).containers_used) == (30, 0)
    assert [kind for kind, _, _ in quota_sql.ledger(user_id)] == ["expired", "refund"]
    assert used(quota_sql, user_id) == (70, 0)


@pytest.mark.every_server
@pytest.mark.parametrize(
    ("refunded", "settled", "left"),
    [(100, 60, 0), (30, 60, 30), (30, 10, 0), (100, 120, 20), (30, None, 70), (100, 0, 0)],
)
def test_a_late_settlement_never_charges_less_than_was_refunded(
    quota_sql: QuotaSql, refunded: int, settled: int | None, left: int
) -> None:
    user_id = quota_sql.user()
    held = quota_sql.reserve(user_id, 100, cost=100)
    quota_sql.expire(held.id)
    quota_sql.refund(user_id, held.id, refunded, refunded)
    late = quota_sql.settle(user_id, held.id, settled, settled)
    charged = max(100 if settled is None else settled, refunded)
    assert (late.outcome, late.tokens, late.cost) == ("corrected", charged, charged)
    assert used(quota_sql, user_id) == (left, left)


@pytest.mark.every_server
def test_a_late_release_never_charges_less_than_was_refunded(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    held = quota_sql.reserve(user_id, 100)
    quota_sql.expire(held.id)
    quota_sql.refund(user_id, held.id, 30)
    assert quota_sql.release(user_id, held.id).outcome == "corrected"
    assert used(quota_sql, user_id) == (0, 0)
    with pytest.raises(errors.InvalidParameterValue, match="are left 0 tokens"):
        quota_sql.refund(user_id, held.id, 1)


@pytest.mark.every_server
def test_the_month_that_was_charged_gets_the_refund(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=1000)
    old = charge(quota_sql, user_id, 100, 1)
    quota_sql.end_period(user_id)
    new = charge(quota_sql, user_id, 50, 2)
    assert quota_sql.refund(user_id, old, 30, "0.5").period_start < quota_sql.quota(user_id).period_start
    (history,) = quota_sql.connection.execute(
        "SELECT tokens_used, cost_used FROM quota_history WHERE user_id = %s", (user_id,)
    ).fetchall()
    assert history == {"tokens_used": 70, "cost_used": Decimal("0.5")}
    assert used(quota_sql, user_id) == (50, 2)
    quota_sql.refund(user_id, new, 50, 2)
    assert used(quota_sql, user_id) == (0, 0)
    assert quota_sql.usage(user_id).tokens_limit == 1000


@pytest.mark.every_server
def test_a_refund_closes_a_month_that_has_ended(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=1000)
    old = charge(quota_sql, user_id, 100)
    quota_sql.end_period(user_id)
    quota_sql.refund(user_id, old, 100)
    assert quota_sql.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 0
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_top_ups_that_paid_get_their_part_back(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=100)
    short = quota_sql.grant(user_id, 50, 50, days=300)
    long = quota_sql.grant(user_id, 50, 50)
    old = charge(quota_sql, user_id, 170, 170)
    quota_sql.end_period(user_id)
    assert quota_sql.usage(user_id).tokens_limit == 100 + 30
    # The last top-up to expire was charged last, so it comes first.
    quota_sql.refund(user_id, old, 15, 15)
    assert {key: grant.tokens_burned for key, grant in quota_sql.grants(user_id).items()} == {short: 50, long: 5}
    assert quota_sql.usage(user_id).tokens_limit == 100 + 45
    quota_sql.refund(user_id, old, 155, 155)
    assert {grant.cost_burned for grant in quota_sql.grants(user_id).values()} == {0}
    assert {grant.closed_at for grant in quota_sql.grants(user_id).values()} == {None}
    usage = quota_sql.usage(user_id)
    assert (usage.tokens_limit, usage.cost_limit, usage.tokens_granted) == (200, 200, 100)
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_a_top_up_that_has_expired_since_stays_lost(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    grant = quota_sql.grant(user_id, 50, days=300)
    old = charge(quota_sql, user_id, 140)
    quota_sql.end_period(user_id)
    quota_sql.add(user_id, 0)
    quota_sql.expire_grant(user_id, grant)
    quota_sql.refund(user_id, old, 140)
    assert quota_sql.usage(user_id).tokens_limit == 100
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_a_refund_of_this_month_makes_room_under_every_limit(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=1)
    quota_sql.grant(user_id, 50)
    old = charge(quota_sql, user_id, 150, 1)
    assert not quota_sql.reserve(user_id, 1).granted
    quota_sql.refund(user_id, old, 20, "0.5")
    assert quota_sql.reserve(user_id, 20, cost="0.5").granted
    assert not quota_sql.reserve(user_id, 1).granted
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_refunds_that_race_give_back_the_charge_once(dsn: str, quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    old = charge(quota_sql, user_id, 100)
    key = uuid.uuid4()

    def caller(number: int) -> str:
        with QuotaSql(dsn) as own:
            try:
                return str(own.refund(user_id, old, 30, key=key if number % 2 else "new").outcome)
            except errors.InvalidParameterValue:
                return "refused"

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(caller, range(8)))
    assert told.count("refunded") == 3
    assert used(quota_sql, user_id) == (10, 0)


def test_a_forecast_counts_refunds(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = client.user(tokens=1000)
    charge_id = charged(client, user, tokens=480, cost="2")
    client.quotas.refund(user, charge_id, tokens=240, cost=1, reason="half of it")
    forecast = client.quotas.forecast(user)
    assert (forecast.tokens_per_day, forecast.cost_per_day) == (240 * 24, 24)
    # A refund of a charge from before the seven days is no negative rate.
    quota_sql.connection.execute(
        "UPDATE user_quotas SET period_start = period_start - interval '20 days', period_anchor = period_anchor"
        " - interval '20 days', period_end = period_end - interval '20 days' WHERE user_id = %s",
        (user.id,),
    )
    quota_sql.connection.execute(
        "UPDATE usage_ledger SET period_start = period_start - interval '20 days', created_at = CASE kind"
        " WHEN 'refund' THEN created_at ELSE created_at - interval '10 days' END WHERE user_id = %s",
        (user.id,),
    )
    forecast = client.quotas.forecast(user)
    assert (forecast.tokens_per_day, forecast.cost_per_day) == (0, 0)


def test_deleting_a_user_deletes_his_refunds(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = client.user(tokens=1000)
    client.quotas.refund(user, charged(client, user), tokens=5, reason="one")
    assert client.users.delete(user).usage_entries == 2
    assert quota_sql.value("SELECT count(*) FROM usage_ledger WHERE user_id = %s", user.id) == 0


def test_refunds_need_the_rights_of_the_platform(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    charge_id = charged(client, user)
    with pytest.raises(NotPermitted):
        client.as_user(user).quotas.refund(user, charge_id, reason="for me")
    assert client.usage_of(user).tokens_used == 100
