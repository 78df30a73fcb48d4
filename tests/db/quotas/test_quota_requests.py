"""Requests: no sliding hour ever has more than the limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quota_sql import QuotaSql


@pytest.mark.every_server
def test_requests_of_an_hour_are_refused_with_the_time_that_it_takes(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=3)
    assert quota_sql.reserve(user_id, requests=3).granted
    refused = quota_sql.reserve(user_id, requests=1)
    assert (refused.dimension, refused.remaining) == ("requests", 0)
    assert timedelta(minutes=59) <= refused.retry_after <= timedelta(minutes=61)
    assert quota_sql.reserve(user_id, requests=4).retry_after is None
    quota_sql.change(user_id, request_minute=quota_sql.quota(user_id).request_minute - 61)
    assert quota_sql.reserve(user_id, requests=3).granted


DRIVE = """CREATE OR REPLACE FUNCTION pg_temp.drive(times timestamptz[], amounts int[], bound int)
RETURNS TABLE (fits boolean, frees_at timestamptz) LANGUAGE plpgsql AS $$
DECLARE
    ring public.quota_ring := (true, array_fill(0, ARRAY[61]), 0, 0, NULL);
BEGIN
    FOR i IN 1 .. array_length(times, 1) LOOP
        ring := public.quota_ring_take(ring.cells, ring.newest, times[i], amounts[i], bound);
        fits := ring.fits;
        frees_at := ring.frees_at;
        RETURN NEXT;
    END LOOP;
END $$"""


@pytest.mark.every_server
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bound=st.integers(1, 6),
    arrivals=st.lists(
        st.tuples(st.sampled_from([0, 1, 59, 60, 61, 600, 1799, 3539, 3540, 3599, 3600, 3601]), st.integers(1, 3)),
        min_size=1,
        max_size=60,
    ),
)
def test_no_sliding_hour_ever_holds_more_than_the_limit(
    quota_sql: QuotaSql, bound: int, arrivals: list[tuple[int, int]]
) -> None:
    at = datetime(2025, 6, 1, 0, 0, 30, tzinfo=UTC)
    times = []
    for gap_s, _ in arrivals:
        at += timedelta(seconds=gap_s)
        times.append(at)
    amounts = [amount for _, amount in arrivals]
    quota_sql.connection.execute(DRIVE)
    answers = quota_sql.connection.execute(
        "SELECT * FROM pg_temp.drive(%s, %s, %s)", (times, amounts, bound)
    ).fetchall()
    taken = [(time, n) for time, n, answer in zip(times, amounts, answers, strict=True) if answer["fits"]]
    for end, _ in taken:
        assert sum(n for time, n in taken if end - timedelta(hours=1) < time <= end) <= bound
    for index, answer in enumerate(answers):
        if answer["fits"]:
            continue
        # A refusal may be too strict, but by no more than the minute of a cell.
        hour = [n for time, n in taken if times[index] - timedelta(minutes=61) < time <= times[index]]
        assert sum(hour) + amounts[index] > bound or amounts[index] > bound
        if amounts[index] > bound:
            assert answer["frees_at"] is None
            continue
        for early, fits in ((timedelta(microseconds=1), False), (timedelta(0), True)):
            tried = [*times[:index], answer["frees_at"] - early]
            again = quota_sql.connection.execute(
                "SELECT * FROM pg_temp.drive(%s, %s, %s)", (tried, amounts[: index + 1], bound)
            ).fetchall()
            assert again[-1]["fits"] is fits
        break


@pytest.mark.every_server
def test_clock_that_goes_backwards_forgets_no_request(quota_sql: QuotaSql) -> None:
    quota_sql.connection.execute(DRIVE)
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    times = [noon, noon - timedelta(hours=2), noon + timedelta(minutes=59)]
    answers = quota_sql.connection.execute("SELECT * FROM pg_temp.drive(%s, ARRAY[1, 1, 1], 2)", (times,)).fetchall()
    assert [answer["fits"] for answer in answers] == [True, True, False]
