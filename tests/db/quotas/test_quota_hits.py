"""Hits, reservations and blocks share one sliding hour, which never has more requests than the limit."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import define, field
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutants import mutated
from psycopg import errors
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput, QuotaExceeded

HOUR = timedelta(hours=1)


def new_user(client: Any, per_hour: int | None) -> Any:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    client.quotas.set_limits(user, requests_per_hour=per_hour)
    return user


def test_hit_tells_what_is_left(client: Any) -> None:
    user = new_user(client, 5)
    rates = [client.quotas.hit(user), client.quotas.hit(user, requests=2)]
    assert [(rate.limit, rate.remaining) for rate in rates] == [(5, 4), (5, 2)]
    usage = client.quotas.usage(user)
    assert (usage.requests_last_hour, usage.tokens_used, usage.tokens_held, usage.cost_used) == (3, 0, 0, 0)
    assert client.quotas.reservations(user) == []
    free = new_user(client, None)
    rate = client.quotas.hit(free, requests=1000)
    assert (rate.limit, rate.remaining) == (None, None)
    assert client.quotas.usage(free).requests_last_hour == 1000


def test_refused_hit_says_when_to_come_back_and_counts_nothing(client: Any) -> None:
    user = new_user(client, 5)
    client.quotas.hit(user, requests=4)
    with pytest.raises(QuotaExceeded, match="requests") as later:
        client.quotas.hit(user, requests=2)
    assert (later.value.dimension, later.value.asked) == ("requests", 2)
    assert (later.value.remaining, later.value.limit) == (1, 5)
    assert timedelta(minutes=59) <= later.value.retry_after <= timedelta(minutes=61)
    with pytest.raises(QuotaExceeded) as never:
        client.quotas.hit(user, requests=6)
    assert never.value.retry_after is None
    assert client.quotas.hit(user).remaining == 0
    client.quotas.set_limits(user, requests_per_hour=2)
    with pytest.raises(QuotaExceeded) as lowered:
        client.quotas.hit(user)
    assert (lowered.value.remaining, lowered.value.limit) == (0, 2)
    for wrong in (0, -1, 10**6 + 1, True, 1.5):
        with pytest.raises(InvalidInput):
            client.quotas.hit(user, requests=wrong)


def test_hits_reservations_and_blocks_share_the_hour(client: Any) -> None:
    user = new_user(client, 20)
    client.quotas.reserve(user, tokens=1, requests=3)
    block = client.quotas.lease_block(user, tokens=10, requests=8, min_requests=8)
    assert (block.requests, client.quotas.hit(user, requests=4).remaining) == (8, 5)
    usage = client.quotas.usage(user)
    assert (usage.requests_last_hour, usage.requests_held) == (7, 8)
    for refused in (
        lambda: client.quotas.hit(user, requests=6),
        lambda: client.quotas.reserve(user, tokens=1, requests=6),
        lambda: client.quotas.lease_block(user, requests=6),
    ):
        with pytest.raises(QuotaExceeded) as error:
            refused()
        assert (error.value.dimension, error.value.remaining) == ("requests", 5)
    client.quotas.settle(user, block.id, tokens=0, requests=2)
    assert client.quotas.hit(user).remaining == 10
    usage = client.quotas.usage(user)
    assert (usage.requests_last_hour, usage.requests_held) == (10, 0)
    assert client.quotas.verify(user).balanced


@pytest.mark.every_server
def test_hit_counts_alike_in_a_new_minute_and_in_the_same_one(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=10)
    for left in (9, 8):
        quota_sql.change(user_id, request_minute=quota_sql.quota(user_id).request_minute - 1)
        answer = quota_sql.hit(user_id)
        assert (answer.granted, answer.bound, answer.remaining) == (True, 10, left)
        assert quota_sql.quota(user_id).requests_used == 10 - left
    quota_sql.hit(user_id, 3)
    quota = quota_sql.quota(user_id)
    assert (sum(quota.request_cells), quota.requests_used) == (5, 5)
    for wrong in (0, -1, 10**6 + 1, None):
        with pytest.raises(errors.InvalidParameterValue):
            quota_sql.hit(user_id, wrong)
    with pytest.raises(errors.ForeignKeyViolation):
        quota_sql.hit(uuid.uuid4())


@pytest.mark.every_server
def test_refused_hit_waits_for_the_first_block_to_end(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=10)
    quota_sql.lease(user_id, requests=4, min_requests=4, ttl=timedelta(minutes=9))
    first = quota_sql.lease(user_id, requests=4, min_requests=4, ttl=timedelta(minutes=5))
    refused = quota_sql.hit(user_id, 3)
    assert (refused.granted, refused.remaining, refused.resets_at) == (False, 2, first.expires_at)
    assert timedelta(minutes=4) < refused.retry_after <= timedelta(minutes=5)


@pytest.mark.every_server
def test_hits_that_race_never_exceed_the_limit(dsn: str, quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=300)

    def caller(number: int) -> int:
        own = QuotaSql(dsn)
        taken = 0
        while (own.reserve(user_id, requests=1) if number % 4 == 0 else own.hit(user_id)).granted:
            taken += 1
        own.connection.close()
        return taken

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(caller, range(8))) == 300
    assert quota_sql.quota(user_id).requests_used == 300


# Sequences, on a clock of their own.


@define
class Block:
    """A block, with the number of requests that were made from it."""

    key: uuid.UUID
    left: int
    expires_at: datetime
    made: int = 0


def minute(at: datetime) -> int:
    return int(at.timestamp() // 60)


@define
class Hour:
    """Requests of all kinds, with the time at which each was really made."""

    quota_sql: QuotaSql
    bound: int
    at: datetime = field(factory=lambda: datetime.now(UTC).replace(second=30, microsecond=0) + timedelta(minutes=1))
    user_id: uuid.UUID = field(init=False)
    blocks: list[Block] = field(factory=list)
    #: Blocks that expired before a settlement, and that were not settled later.
    ended: list[Block] = field(factory=list)
    made: list[tuple[datetime, int]] = field(factory=list)
    #: The requests that the database counts: times and numbers.
    booked: list[tuple[datetime, int]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.user_id = self.quota_sql.user(requests_limit=self.bound)

    def step(self, gap_s: int, kind: str, n: int) -> None:
        self.at += timedelta(seconds=gap_s)
        self.quota_sql.set_clock(self.at)
        getattr(self, kind)(n)
        quota = self.quota_sql.quota(self.user_id)
        counting = [m for time, m in self.booked if minute(time) > quota.request_minute - 61]
        assert quota.requests_used == sum(quota.request_cells) == sum(counting)

    def hit(self, n: int) -> None:
        self.count(n, self.quota_sql.hit(self.user_id, n))

    def reserve(self, n: int) -> None:
        self.count(n, self.quota_sql.reserve(self.user_id, requests=n))

    def count(self, n: int, answer: Any) -> None:
        self.judge(n, answer)
        if answer.granted:
            self.made.append((self.at, n))
            self.booked.append((self.at, n))

    def lease(self, n: int) -> None:
        block = self.quota_sql.lease(self.user_id, requests=2 * n, min_requests=n, ttl=timedelta(minutes=50))
        self.judge(block.requests or n, block)
        if block.granted:
            assert n <= block.requests <= 2 * n
            self.blocks.append(Block(block.id, block.requests, block.expires_at))

    def make(self, n: int) -> None:
        """Make requests from the first block that has some left."""
        for block in self.blocks:
            taken = min(n, block.left)
            if taken and self.at < block.expires_at:
                block.left -= taken
                block.made += taken
                self.made.append((self.at, taken))
                return

    def settle(self, n: int) -> None:
        if self.blocks:
            block = self.blocks.pop(n % len(self.blocks))
            outcome = self.quota_sql.settle(self.user_id, block.key, requests=block.made).outcome
            assert outcome == "settled"
            self.booked.append((self.at, block.made))

    def late(self, n: int) -> None:
        if self.ended:
            block = self.ended.pop(n % len(self.ended))
            assert self.quota_sql.settle(self.user_id, block.key, requests=block.made).outcome == "corrected"
            self.booked.remove((block.expires_at, block.made + block.left))
            self.booked.append((block.expires_at, block.made))

    def judge(self, n: int, answer: Any) -> None:
        """Check that a granted request fits, and that a refused one does not fit, or did not a minute ago."""
        for block in [known for known in self.blocks if known.expires_at <= self.at]:
            # A request that does not fit at first ends expired blocks, and may fit then. If the database still has the
            # block, the request has fitted at once.
            if self.quota_sql.value("SELECT count(*) FROM quota_reservations WHERE id = %s", block.key):
                assert answer.granted
                continue
            self.blocks.remove(block)
            self.ended.append(block)
            self.booked.append((block.expires_at, block.made + block.left))
        held = sum(block.made + block.left for block in self.blocks)
        window = HOUR if answer.granted else HOUR + timedelta(minutes=1)
        counted = sum(m for time, m in self.booked if time > self.at - window)
        assert (counted + held + n <= self.bound) is answer.granted

    def check(self) -> None:
        for end, _ in self.made:
            assert sum(n for time, n in self.made if end - HOUR < time <= end) <= self.bound
        self.quota_sql.balance(self.user_id)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 60, 600, 1799, 2999, 3539, 3540, 3600]),
        st.sampled_from(["hit", "hit", "reserve", "lease", "lease", "make", "make", "make", "make", "settle", "late"]),
        st.integers(1, 3),
    ),
    min_size=12,
    max_size=40,
)
QUIET = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@QUIET
@given(bound=st.integers(1, 6), steps=STEPS)
def hours_hold(quota_sql: QuotaSql, bound: int, steps: list[tuple[int, str, int]]) -> None:
    hour = Hour(quota_sql, bound)
    for gap_s, kind, n in steps:
        hour.step(gap_s, kind, n)
    hour.check()


@pytest.mark.every_server
def test_no_sliding_hour_holds_more_than_the_limit_whatever_they_are_made_with(quota_sql: QuotaSql) -> None:
    with quota_sql.own_clock():
        hours_hold(quota_sql)


#: Mutants by name: functions, texts in them, and the replacements of the texts.
MUTANTS: dict[str, list[tuple[str, tuple[tuple[str, str], ...]]]] = {
    "a block's requests are booked when it is granted": [
        (
            "quota_lease",
            (
                ("requests_held = q.requests_held + d.requests,", ""),
                (
                    "UPDATE user_quotas",
                    "ring := quota_ring_take(ring.cells, ring.newest, at, d.requests, NULL);\n    UPDATE user_quotas",
                ),
                ("d.cost, 0, d.requests, 0, d.epoch", "d.cost, 0, 0, 0, d.epoch"),
            ),
        ),
        ("quota_post", (("IF hold.leased AND hold.requests > 0 OR p_requests <> 0 THEN", "IF false THEN"),)),
    ],
    "a settlement books none": [("quota_post", (("greatest(p_requests, 0), NULL", "0, NULL"),))],
    "an expiry books none": [("quota_reclaim", (("ARRAY[hold.requests]", "ARRAY[0]"),))],
    "an expiry books into the minute of the refusal": [("quota_reclaim", (("ARRAY[hold.expires_at]", "ARRAY[p_at]"),))],
    "a late settlement takes off too many": [
        ("quota_settle", (("coalesce(p_requests - done.requests, 0)", "-done.requests"),))
    ],
    "a late settlement takes them off another minute": [
        ("quota_settle", (("hold.expires_at := done.counted_at", "hold.expires_at := clock_timestamp()"),))
    ],
    "a late settlement takes none off": [("quota_settle", (("coalesce(p_requests - done.requests, 0)", "0"),))],
    "the short cut of a hit does not see blocks": [
        ("quota_hit", (("u.requests_used::bigint + u.requests_held", "u.requests_used::bigint"),))
    ],
    "a hit does not see blocks": [("quota_hit", (("q.requests_limit - q.requests_held", "q.requests_limit"),))],
    "the short cut of a reservation does not see blocks": [
        ("quota_reserve", (("u.requests_used::bigint + u.requests_held", "u.requests_used::bigint"),))
    ],
    "a reservation does not see blocks": [
        ("quota_reserve", (("q.requests_limit - q.requests_held", "q.requests_limit"),))
    ],
    "a block does not see blocks": [("quota_lease", (("q.requests_limit - q.requests_held", "q.requests_limit"),))],
    "the short cut does not look at the minute": [("quota_hit", (("u.request_minute = minute AND", "true AND"),))],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_count_of_requests_is_noticed(quota_sql: QuotaSql, name: str) -> None:
    with ExitStack() as broken:
        broken.enter_context(quota_sql.own_clock())
        for function, changes in MUTANTS[name]:
            broken.enter_context(mutated(quota_sql.connection, function, *changes))
        with pytest.raises((AssertionError, errors.Error)):
            hours_hold(quota_sql)
