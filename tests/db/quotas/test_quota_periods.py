"""Periods: every moment belongs to one month and one day, and each ended period is closed once."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quota_sql import TTL, QuotaSql


@pytest.mark.every_server
def test_ended_period_is_closed_once_and_its_holds_are_charged_to_it(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=10)
    quota_sql.settle(user_id, quota_sql.reserve(user_id, 60, cost=6).id, 60, 6)
    old = quota_sql.reserve(user_id, 40, cost=4, slots=1)
    quota_sql.end_period(user_id)
    fresh = quota_sql.reserve(user_id, 100, cost=10)
    assert fresh.granted
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.containers_used) == (0, 100, 1)
    assert quota.period_start <= datetime.now(UTC) < quota.period_end
    quota_sql.balance(user_id)
    assert quota_sql.extend(user_id, old.id, 1).granted is False
    assert quota_sql.extend(user_id, old.id, ttl=TTL).granted is True
    quota_sql.settle(user_id, old.id, 25, "2.5")
    history = quota_sql.row("SELECT * FROM quota_history WHERE user_id = %s", user_id)
    assert (history.tokens_used, history.cost_used, history.tokens_limit) == (85, Decimal("8.5"), 100)
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.containers_used) == (0, 100, 0)
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_hold_of_an_ended_period_expires_into_that_period(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    old = quota_sql.reserve(user_id, 40)
    quota_sql.end_period(user_id)
    quota_sql.expire(old.id)
    assert quota_sql.reserve(user_id, 101).granted is False
    assert quota_sql.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 40
    quota_sql.settle(user_id, old.id, 10, 0)
    assert quota_sql.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 10
    assert quota_sql.quota(user_id).tokens_used == 0
    quota_sql.balance(user_id)


def months(quota_sql: QuotaSql, anchor: datetime, zone: str, at: datetime) -> tuple[datetime, datetime]:
    found = quota_sql.row("SELECT * FROM quota_month(%s::timestamptz, %s, %s::timestamptz)", anchor, zone, at)
    return found.period_start, found.period_end


@pytest.mark.every_server
def test_months_of_a_31st_come_back_to_the_31st(quota_sql: QuotaSql) -> None:
    anchor = datetime(2024, 1, 31, 12, tzinfo=UTC)
    starts = [anchor]
    for _ in range(14):
        starts.append(months(quota_sql, anchor, "UTC", starts[-1])[1])
    days = [(start.month, start.day) for start in starts]
    assert days == [
        *((1, 31), (2, 29), (3, 31), (4, 30), (5, 31), (6, 30), (7, 31), (8, 31), (9, 30), (10, 31), (11, 30)),
        *((12, 31), (1, 31), (2, 28), (3, 31)),
    ]


def moments(first: int, last: int) -> st.SearchStrategy[datetime]:
    seconds = st.integers(
        int(datetime(first, 1, 1, tzinfo=UTC).timestamp()), int(datetime(last, 1, 1, tzinfo=UTC).timestamp())
    )
    return seconds.map(lambda second: datetime.fromtimestamp(second, UTC))


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"]


@pytest.mark.every_server
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anchor=moments(2005, 2025),
    zone=st.sampled_from(ZONES),
    moment=moments(2004, 2032),
)
def test_months_hold_their_moment_without_gap_or_overlap(
    quota_sql: QuotaSql, anchor: datetime, zone: str, moment: datetime
) -> None:
    start, end = months(quota_sql, anchor, zone, moment)
    assert start <= moment < end
    assert timedelta(days=26) < end - start < timedelta(days=33)
    assert months(quota_sql, anchor, zone, end)[0] == end
    assert months(quota_sql, anchor, zone, start - timedelta(microseconds=1))[1] == start


@pytest.mark.every_server
def test_month_begins_at_the_same_local_time_in_summer_and_winter(quota_sql: QuotaSql) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start, end = months(
        quota_sql, datetime(2025, 1, 15, 9, tzinfo=berlin), "Europe/Berlin", datetime(2025, 3, 20, tzinfo=UTC)
    )
    assert start == datetime(2025, 3, 15, 9, tzinfo=berlin)
    assert end == datetime(2025, 4, 15, 9, tzinfo=berlin)
    assert end - start == timedelta(days=31) - timedelta(hours=1)


@pytest.mark.every_server
def test_new_time_zone_never_moves_a_period_backwards(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    quota_sql.end_period(user_id)
    ended = quota_sql.quota(user_id).period_end
    quota_sql.change(user_id, time_zone="Pacific/Kiritimati")
    quota_sql.reserve(user_id, 1)
    quota = quota_sql.quota(user_id)
    assert ended <= quota.period_start <= datetime.now(UTC) < quota.period_end
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_builds_begin_anew_at_midnight_of_the_user(quota_sql: QuotaSql) -> None:
    zone = ZoneInfo("Pacific/Kiritimati")
    user_id = quota_sql.user(builds_limit=2, time_zone="Pacific/Kiritimati")
    assert quota_sql.reserve(user_id, builds=2).granted
    refused = quota_sql.reserve(user_id, builds=1)
    local = refused.resets_at.astimezone(zone)
    assert (refused.dimension, refused.remaining, local.hour, local.minute) == ("builds", 0, 0, 0)
    assert timedelta(0) <= refused.retry_after <= timedelta(days=1)
    today: date = quota_sql.quota(user_id).build_day
    assert local.date() == today + timedelta(days=1)
    quota_sql.change(user_id, build_day=today - timedelta(days=1))
    assert quota_sql.reserve(user_id, builds=1).granted
    quota = quota_sql.quota(user_id)
    assert (quota.build_day, quota.builds_used) == (today, 1)


@pytest.mark.every_server
def test_thresholds_are_told_once_a_period(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=10)
    quota_sql.add(user_id, 49)
    assert quota_sql.thresholds(user_id) == []
    quota_sql.add(user_id, 31)
    assert quota_sql.thresholds(user_id) == [("tokens", 50), ("tokens", 80)]
    quota_sql.settle(user_id, quota_sql.reserve(user_id, 10, cost=5).id, 0, 5)
    quota_sql.expire(quota_sql.reserve(user_id, 20).id)
    quota_sql.reserve(user_id, 1)
    told = [("tokens", 50), ("tokens", 80), ("cost", 50), ("tokens", 100)]
    assert quota_sql.thresholds(user_id) == told
    quota_sql.change(user_id, tokens_limit=1000)
    quota_sql.add(user_id, 900)
    assert quota_sql.thresholds(user_id) == told
    quota_sql.end_period(user_id)
    quota_sql.add(user_id, 500)
    assert quota_sql.thresholds(user_id) == [*told, ("tokens", 50)]
    quota_sql.balance(user_id)
