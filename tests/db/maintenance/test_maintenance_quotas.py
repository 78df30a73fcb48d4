"""Maintenance of quotas: periods that ended, reservations that expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from upkeep import Admin, counts, expire, told

from atlas_sdk import User

# Quotas.


def test_periods_that_ended_are_closed_once(client: Any, user: User, migrated: Admin) -> None:
    users = [user, *(client.users.create(f"u{n}@example.com") for n in range(4))]
    client.quotas.add_tokens(user, tokens=70)
    migrated.execute(
        """UPDATE user_quotas SET period_anchor = now() - interval '40 days', period_start = now() - interval '40 days',
                  period_end = now() - interval '10 days' WHERE user_id <> %s""",
        [users[4].id],
    )
    assert counts(client.maintenance.close_periods(batch=3)) == (4, 4, 0)
    assert [period.tokens_used for period in client.quotas.history(user)] == [70]
    assert client.quotas.usage(user).tokens_used == 0
    assert client.quotas.history(users[4]) == []
    assert counts(client.maintenance.close_periods()) == (0, 0, 0)


def test_the_older_name_for_closing_periods_does_the_same(client: Any, user: User, migrated: Admin) -> None:
    migrated.execute(
        "UPDATE user_quotas SET period_start = now() - interval '40 days', period_end = now() - interval '10 days'"
        " WHERE user_id = %s",
        [user.id],
    )
    assert [client.quotas.reset_monthly() for _ in range(2)] == [1, 0]
    assert [meta["removed"] for meta in told(migrated, "periods")] == [1, 0]


@pytest.mark.every_server
def test_expired_reservations_are_charged_and_their_slots_are_free(client: Any, user: User, migrated: Admin) -> None:
    bob = client.users.create("bob@example.com")
    for owner in (user, bob):
        client.quotas.reserve(owner, tokens=100, cost="0.5", slots=1)
        client.quotas.lease_block(owner, tokens=7, requests=5, ttl=timedelta(minutes=1))
    live = client.users.create("eve@example.com")
    client.quotas.reserve(live, tokens=1, slots=1)
    expire(migrated, user)
    expire(migrated, bob)
    report = client.maintenance.reclaim_reservations(batch=2)
    assert counts(report) == (5, 4, 0)
    for owner in (user, bob):
        usage = client.quotas.usage(owner)
        assert (usage.tokens_used, usage.tokens_held, usage.slots_held) == (107, 0, 0)
        # The requests of the expired block may have been made, so they count.
        assert (usage.requests_held, usage.requests_last_hour) == (0, 6)
        assert str(usage.cost_used) == "0.500000000"
    assert client.quotas.usage(live).slots_held == 1
    assert client.quotas.verify().balanced
    assert counts(client.maintenance.reclaim_reservations()) == (1, 0, 0)


def test_a_late_settlement_corrects_what_maintenance_charged(client: Any, user: User, migrated: Admin) -> None:
    hold = client.quotas.reserve(user, tokens=100)
    expire(migrated, user)
    assert client.maintenance.reclaim_reservations().removed == 1
    assert client.quotas.settle(user, hold.id, tokens=30).outcome == "corrected"
    assert client.quotas.usage(user).tokens_used == 30
    assert client.quotas.verify().balanced


def test_one_user_with_many_expired_holds_is_done_bit_by_bit(client: Any, user: User, migrated: Admin) -> None:
    for n in range(7):
        client.quotas.reserve(user, tokens=1)
        migrated.execute(
            "UPDATE quota_reservations SET expires_at = now() - make_interval(secs => %s) WHERE expires_at > now()",
            [60 - n],
        )
    batches: list[int] = []
    report = client.maintenance.reclaim_reservations(batch=3, progress=lambda now: batches.append(now.removed))
    assert report.removed == 7
    assert batches == [3, 6, 7]
    assert client.quotas.usage(user).tokens_used == 7
    assert client.quotas.verify().balanced


def test_a_user_who_is_busy_is_waited_for(client: Any, user: User, migrated: Admin, dsn: str) -> None:
    client.quotas.reserve(user, tokens=5)
    expire(migrated, user)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", [user.id])
        # Without waiting, the same function returns the users whose rows are locked.
        row = migrated.execute("SELECT ended, busy FROM maintenance_reclaim(%s, 10, false)", [[user.id]]).fetchone()
        assert row == (0, [user.id])
    assert client.maintenance.reclaim_reservations().removed == 1
