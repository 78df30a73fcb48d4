"""Quotas: the limits hold under any concurrency, and the books balance after anything."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atlas_sdk import InvalidInput, NotFound
from atlas_sdk._sql import statements
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.ops import quotas

BALANCE = statements("quotas")["verify"].text
CALLERS = 16
PATIENCE_S = 60
#: Of a hold, long enough for any test.
TTL = timedelta(hours=1)


@pytest.fixture(scope="module")
def _shared() -> dict[str, str]:
    return {}


@pytest.fixture
def dsn(request: pytest.FixtureRequest, server: str, _shared: dict[str, str], _template: Any) -> str:
    """A migrated database of this module: every test has a user of its own."""
    if server not in _shared:
        url = _template(server)
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE atlas_template")
        head, _, tail = url.partition("?")
        _shared[server] = f"{head.rsplit('/', 1)[0]}/{name}?{tail}"
    return _shared[server]


class Door:
    """Calls the functions on a connection of its own."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)

    def row(self, text: str, *parameters: object) -> Any:
        found = self.connection.execute(text, parameters).fetchone()
        return None if found is None else SimpleNamespace(**found)

    def value(self, text: str, *parameters: object) -> Any:
        (found,) = self.connection.execute(text, parameters).fetchone().values()
        return found

    def user(self, **columns: object) -> uuid.UUID:
        """Make a user; the columns are of user_quotas, and every limit that is not named is none."""
        user_id = uuid.uuid4()
        self.connection.execute("INSERT INTO users (id, email) VALUES (%s, %s)", (user_id, f"{user_id}@example.com"))
        limits = dict.fromkeys(("tokens_limit", "cost_limit", "containers_limit", "requests_limit", "builds_limit"))
        self.change(user_id, **{**limits, **columns})
        return user_id

    def change(self, user_id: uuid.UUID, **columns: object) -> None:
        changes = ", ".join(f"{name} = %({name})s" for name in columns)
        self.connection.execute(f"UPDATE user_quotas SET {changes} WHERE user_id = %(u)s", {**columns, "u": user_id})

    def reserve(
        self, user_id: uuid.UUID, tokens: Any = 0, *, key: Any = "new", ttl: Any = TTL, meta: Any = None, **more: Any
    ) -> Any:
        asked = {"min_tokens": None, "cost": 0, "slots": 0, "requests": 0, "builds": 0, "holder": "", **more}
        asked |= {"u": user_id, "id": uuid.uuid4() if key == "new" else key, "tokens": tokens, "ttl": ttl}
        found = self.connection.execute(
            """SELECT *, %(id)s::uuid AS id FROM quota_reserve(%(u)s, %(id)s, %(tokens)s::bigint,
                   %(min_tokens)s::bigint, %(cost)s::numeric, %(slots)s::integer, %(requests)s::integer,
                   %(builds)s::integer, %(ttl)s::interval, %(holder)s, %(meta)s)""",
            {**asked, "meta": None if meta is None else Jsonb(meta)},
        ).fetchone()
        assert found is not None
        return SimpleNamespace(**found)

    def settle(self, user_id: uuid.UUID, key: uuid.UUID, tokens: Any = None, cost: Any = None, meta: Any = None) -> Any:
        return self.row(
            "SELECT * FROM quota_settle(%s, %s, %s::bigint, %s::numeric, %s)",
            *(user_id, key, tokens, cost, None if meta is None else Jsonb(meta)),
        )

    def release(self, user_id: uuid.UUID, key: uuid.UUID) -> Any:
        return self.row("SELECT * FROM quota_release(%s, %s)", user_id, key)

    def extend(self, user_id: uuid.UUID, key: uuid.UUID, tokens: Any = 0, cost: Any = 0, ttl: Any = None) -> Any:
        return self.row(
            "SELECT * FROM quota_extend(%s, %s, %s::bigint, %s::numeric, %s::interval)",
            *(user_id, key, tokens, cost, ttl),
        )

    def add(self, user_id: uuid.UUID, tokens: Any, cost: Any = 0, key: Any = None) -> Any:
        return self.row(
            "SELECT * FROM quota_add(%s, %s, %s::bigint, %s::numeric, NULL)", user_id, key or uuid.uuid4(), tokens, cost
        )

    def expire(self, key: uuid.UUID) -> None:
        self.connection.execute(
            "UPDATE quota_reservations SET expires_at = now() - interval '1 s' WHERE id = %s", (key,)
        )

    def end_period(self, user_id: uuid.UUID, days: int = 40) -> None:
        """Move everything of this user so many days into the past: the period is over, by more than a month."""
        moved = {"days": timedelta(days=days), "u": user_id}
        for text in (
            """UPDATE user_quotas SET period_anchor = period_anchor - %(days)s, period_start = period_start - %(days)s,
               period_end = period_end - %(days)s WHERE user_id = %(u)s""",
            "UPDATE quota_reservations SET period_start = period_start - %(days)s WHERE user_id = %(u)s",
            "UPDATE usage_ledger SET period_start = period_start - %(days)s WHERE user_id = %(u)s",
            "UPDATE quota_history SET period_start = period_start - %(days)s WHERE user_id = %(u)s",
        ):
            self.connection.execute(text, moved)

    def quota(self, user_id: uuid.UUID) -> Any:
        return self.row("SELECT * FROM user_quotas WHERE user_id = %s", user_id)

    def ledger(self, user_id: uuid.UUID) -> list[tuple[str, int, Decimal]]:
        found = self.connection.execute(
            "SELECT kind, amount, cost FROM usage_ledger WHERE user_id = %s ORDER BY created_at", (user_id,)
        )
        return [(row["kind"], int(row["amount"]), row["cost"]) for row in found]

    def thresholds(self, user_id: uuid.UUID) -> list[tuple[str, int]]:
        found = self.connection.execute(
            "SELECT meta FROM events WHERE user_id = %s AND type = 'quota.threshold' ORDER BY created_at, meta",
            (user_id,),
        )
        return [(row["meta"]["dimension"], row["meta"]["percent"]) for row in found]

    def balance(self, user_id: uuid.UUID) -> None:
        """Assert that used = SUM(ledger) and held = SUM(holds)."""
        (row,) = self.connection.execute(BALANCE, {"user_id": user_id}).fetchall()
        assert row["user_id"] is None, row
        assert row["periods"] >= 1


@pytest.fixture
def door(dsn: str) -> Iterator[Door]:
    opened = Door(dsn)
    yield opened
    opened.connection.close()


# Never over the limit.

LIMIT = 20_000


def race(dsn: str, user_id: uuid.UUID, call: Callable[[Door, random.Random], bool]) -> int:
    """Have 16 callers repeat a call until it says that nothing is left; return the highest used + held ever seen."""
    peak = 0

    def caller(seed: int) -> None:
        own = Door(dsn)
        dice = random.Random(seed)
        while call(own, dice):
            pass
        own.connection.close()

    watcher = Door(dsn)
    with ThreadPoolExecutor(CALLERS) as threads:
        running = [threads.submit(caller, seed) for seed in range(CALLERS)]
        while not all(future.done() for future in running):
            quota = watcher.quota(user_id)
            peak = max(peak, quota.tokens_used + quota.tokens_held)
        for future in running:
            future.result()
    quota = watcher.quota(user_id)
    watcher.connection.close()
    return max(peak, quota.tokens_used + quota.tokens_held)


@pytest.mark.every_server
def test_callers_that_race_never_exceed_a_limit(dsn: str, door: Door) -> None:
    user_id = door.user(tokens_limit=LIMIT, cost_limit=1000)

    def call(own: Door, dice: random.Random) -> bool:
        granted = own.reserve(user_id, 200, min_tokens=10, cost="0.1", requests=1)
        if not granted.granted:
            return False
        assert 10 <= granted.tokens <= 200
        if dice.random() < 0.1:
            own.release(user_id, granted.id)
        else:
            own.settle(user_id, granted.id, dice.randint(granted.tokens // 2, granted.tokens), "0.05")
        return True

    peak = race(dsn, user_id, call)
    quota = door.quota(user_id)
    assert peak <= LIMIT
    assert quota.tokens_held == quota.cost_held == 0
    # Whoever gives up while others hold something leaves it to them: the last one takes the rest.
    assert LIMIT - 10 < quota.tokens_used <= LIMIT
    assert sum(amount for _, amount, _ in door.ledger(user_id)) == quota.tokens_used
    door.balance(user_id)


def test_checking_and_then_updating_exceeds_it(dsn: str, door: Door) -> None:
    """The pair that everybody writes first, in the same race: it shows that the race can be lost."""
    user_id = door.user(tokens_limit=LIMIT)
    all_have_checked = threading.Barrier(CALLERS)
    door.change(user_id, tokens_used=LIMIT - 500)

    def call(own: Door, dice: random.Random) -> bool:
        quota = own.quota(user_id)
        if quota.tokens_used + 500 > LIMIT:
            return False
        all_have_checked.wait(PATIENCE_S)
        own.connection.execute("UPDATE user_quotas SET tokens_used = tokens_used + 500 WHERE user_id = %s", (user_id,))
        return True

    assert race(dsn, user_id, call) == LIMIT + 500 * (CALLERS - 1)
    # These books balance for nobody.
    door.connection.execute("DELETE FROM users WHERE id = %s", (user_id,))


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
    assert refused.resets_at == quota.period_end
    assert timedelta(days=27) < refused.retry_after < timedelta(days=32)


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


# Periods.


@pytest.mark.every_server
def test_ended_period_is_closed_once_and_its_holds_are_charged_to_it(door: Door) -> None:
    user_id = door.user(tokens_limit=100, cost_limit=10)
    door.settle(user_id, door.reserve(user_id, 60, cost=6).id, 60, 6)
    old = door.reserve(user_id, 40, cost=4, slots=1)
    door.end_period(user_id)
    fresh = door.reserve(user_id, 100, cost=10)
    assert fresh.granted
    quota = door.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.containers_used) == (0, 100, 1)
    assert quota.period_start <= datetime.now(UTC) < quota.period_end
    door.balance(user_id)
    assert door.extend(user_id, old.id, 1).granted is False
    assert door.extend(user_id, old.id, ttl=TTL).granted is True
    door.settle(user_id, old.id, 25, "2.5")
    history = door.row("SELECT * FROM quota_history WHERE user_id = %s", user_id)
    assert (history.tokens_used, history.cost_used, history.tokens_limit) == (85, Decimal("8.5"), 100)
    quota = door.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.containers_used) == (0, 100, 0)
    door.balance(user_id)


@pytest.mark.every_server
def test_hold_of_an_ended_period_expires_into_that_period(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    old = door.reserve(user_id, 40)
    door.end_period(user_id)
    door.expire(old.id)
    assert door.reserve(user_id, 101).granted is False
    assert door.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 40
    door.settle(user_id, old.id, 10, 0)
    assert door.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 10
    assert door.quota(user_id).tokens_used == 0
    door.balance(user_id)


@pytest.mark.every_server
def test_many_callers_at_the_end_of_a_period_close_it_once(dsn: str, door: Door) -> None:
    user_id = door.user(tokens_limit=80)
    door.reserve(user_id, 80)
    door.end_period(user_id)

    def call(_: int) -> bool:
        own = Door(dsn)
        granted = own.reserve(user_id, 10).granted
        own.connection.close()
        return granted

    with ThreadPoolExecutor(CALLERS) as threads:
        assert sum(threads.map(call, range(CALLERS))) == 8
    assert door.value("SELECT count(*) FROM quota_history WHERE user_id = %s", user_id) == 1
    assert door.quota(user_id).tokens_held == 80
    door.balance(user_id)


def months(door: Door, anchor: datetime, zone: str, at: datetime) -> tuple[datetime, datetime]:
    found = door.row("SELECT * FROM quota_month(%s::timestamptz, %s, %s::timestamptz)", anchor, zone, at)
    return found.period_start, found.period_end


@pytest.mark.every_server
def test_months_of_a_31st_come_back_to_the_31st(door: Door) -> None:
    anchor = datetime(2024, 1, 31, 12, tzinfo=UTC)
    starts = [anchor]
    for _ in range(14):
        starts.append(months(door, anchor, "UTC", starts[-1])[1])
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
    door: Door, anchor: datetime, zone: str, moment: datetime
) -> None:
    start, end = months(door, anchor, zone, moment)
    assert start <= moment < end
    assert timedelta(days=26) < end - start < timedelta(days=33)
    assert months(door, anchor, zone, end)[0] == end
    assert months(door, anchor, zone, start - timedelta(microseconds=1))[1] == start


@pytest.mark.every_server
def test_month_begins_at_the_same_local_time_in_summer_and_winter(door: Door) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    start, end = months(
        door, datetime(2025, 1, 15, 9, tzinfo=berlin), "Europe/Berlin", datetime(2025, 3, 20, tzinfo=UTC)
    )
    assert start == datetime(2025, 3, 15, 9, tzinfo=berlin)
    assert end == datetime(2025, 4, 15, 9, tzinfo=berlin)
    assert end - start == timedelta(days=31) - timedelta(hours=1)


@pytest.mark.every_server
def test_new_time_zone_never_moves_a_period_backwards(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    door.end_period(user_id)
    ended = door.quota(user_id).period_end
    door.change(user_id, time_zone="Pacific/Kiritimati")
    door.reserve(user_id, 1)
    quota = door.quota(user_id)
    assert ended <= quota.period_start <= datetime.now(UTC) < quota.period_end
    door.balance(user_id)


# Rates.


@pytest.mark.every_server
def test_builds_begin_anew_at_midnight_of_the_user(door: Door) -> None:
    zone = ZoneInfo("Pacific/Kiritimati")
    user_id = door.user(builds_limit=2, time_zone="Pacific/Kiritimati")
    assert door.reserve(user_id, builds=2).granted
    refused = door.reserve(user_id, builds=1)
    local = refused.resets_at.astimezone(zone)
    assert (refused.dimension, refused.remaining, local.hour, local.minute) == ("builds", 0, 0, 0)
    assert timedelta(0) <= refused.retry_after <= timedelta(days=1)
    today: date = door.quota(user_id).build_day
    assert local.date() == today + timedelta(days=1)
    door.change(user_id, build_day=today - timedelta(days=1))
    assert door.reserve(user_id, builds=1).granted
    quota = door.quota(user_id)
    assert (quota.build_day, quota.builds_used) == (today, 1)


@pytest.mark.every_server
def test_requests_of_an_hour_are_refused_with_the_time_that_it_takes(door: Door) -> None:
    user_id = door.user(requests_limit=3)
    assert door.reserve(user_id, requests=3).granted
    refused = door.reserve(user_id, requests=1)
    assert (refused.dimension, refused.remaining) == ("requests", 0)
    assert timedelta(minutes=59) <= refused.retry_after <= timedelta(minutes=61)
    assert door.reserve(user_id, requests=4).retry_after is None
    door.change(user_id, request_minute=door.quota(user_id).request_minute - 61)
    assert door.reserve(user_id, requests=3).granted


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
    door: Door, bound: int, arrivals: list[tuple[int, int]]
) -> None:
    at = datetime(2025, 6, 1, 0, 0, 30, tzinfo=UTC)
    times = []
    for gap_s, _ in arrivals:
        at += timedelta(seconds=gap_s)
        times.append(at)
    amounts = [amount for _, amount in arrivals]
    door.connection.execute(DRIVE)
    answers = door.connection.execute("SELECT * FROM pg_temp.drive(%s, %s, %s)", (times, amounts, bound)).fetchall()
    taken = [(time, n) for time, n, answer in zip(times, amounts, answers, strict=True) if answer["fits"]]
    for end, _ in taken:
        assert sum(n for time, n in taken if end - timedelta(hours=1) < time <= end) <= bound
    for index, answer in enumerate(answers):
        if answer["fits"]:
            continue
        # Conservative, but by no more than the minute of a cell.
        hour = [n for time, n in taken if times[index] - timedelta(minutes=61) < time <= times[index]]
        assert sum(hour) + amounts[index] > bound or amounts[index] > bound
        if amounts[index] > bound:
            assert answer["frees_at"] is None
            continue
        for early, fits in ((timedelta(microseconds=1), False), (timedelta(0), True)):
            tried = [*times[:index], answer["frees_at"] - early]
            again = door.connection.execute(
                "SELECT * FROM pg_temp.drive(%s, %s, %s)", (tried, amounts[: index + 1], bound)
            ).fetchall()
            assert again[-1]["fits"] is fits
        break


@pytest.mark.every_server
def test_clock_that_goes_backwards_forgets_no_request(door: Door) -> None:
    door.connection.execute(DRIVE)
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    times = [noon, noon - timedelta(hours=2), noon + timedelta(minutes=59)]
    answers = door.connection.execute("SELECT * FROM pg_temp.drive(%s, ARRAY[1, 1, 1], 2)", (times,)).fetchall()
    assert [answer["fits"] for answer in answers] == [True, True, False]


# Events, bad input, tenants.


@pytest.mark.every_server
def test_thresholds_are_told_once_a_period(door: Door) -> None:
    user_id = door.user(tokens_limit=100, cost_limit=10)
    door.add(user_id, 49)
    assert door.thresholds(user_id) == []
    door.add(user_id, 31)
    assert door.thresholds(user_id) == [("tokens", 50), ("tokens", 80)]
    door.settle(user_id, door.reserve(user_id, 10, cost=5).id, 0, 5)
    door.expire(door.reserve(user_id, 20).id)
    door.reserve(user_id, 1)
    told = [("tokens", 50), ("tokens", 80), ("cost", 50), ("tokens", 100)]
    assert door.thresholds(user_id) == told
    door.change(user_id, tokens_limit=1000)
    door.add(user_id, 900)
    assert door.thresholds(user_id) == told
    door.end_period(user_id)
    door.add(user_id, 500)
    assert door.thresholds(user_id) == [*told, ("tokens", 50)]
    door.balance(user_id)


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
        with pytest.raises(errors.ForeignKeyViolation), door.connection.transaction():
            door.reserve(two, 5)
    door.connection.execute(f"DROP OWNED BY {role}")
    door.connection.execute(f"DROP ROLE {role}")


# Two connections, in a chosen order.


@contextmanager
def waiting(dsn: str, door: Door, call: Callable[[Door], Any]) -> Iterator[Any]:
    """Start a call on another connection while this one has the row; on leaving, it has answered."""
    other = Door(dsn)
    pid = other.connection.info.backend_pid
    watcher = Door(dsn)
    answer = SimpleNamespace()
    thread = threading.Thread(target=lambda: setattr(answer, "value", call(other)))
    with door.connection.transaction():
        yield SimpleNamespace(start=thread.start, answer=answer)
        thread.start()
        while not watcher.value("SELECT pg_blocking_pids(%s) <> '{}'", pid):
            assert thread.is_alive(), "the second call did not wait for the first"
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    other.connection.close()
    watcher.connection.close()


CALLS: dict[str, Callable[[Door, uuid.UUID, uuid.UUID], Any]] = {
    "reserve": lambda door, user_id, key: door.reserve(user_id, 60),
    "settle": lambda door, user_id, key: door.settle(user_id, key, 10, 0),
    "release": lambda door, user_id, key: door.release(user_id, key),
    "extend": lambda door, user_id, key: door.extend(user_id, key, 40),
}
#: What the second call is told, with a limit of 100 and a hold of 50.
SECOND = {
    ("reserve", "reserve"): lambda answer: answer.dimension == "tokens",
    ("reserve", "settle"): lambda answer: answer.outcome == "settled",
    ("reserve", "release"): lambda answer: answer.outcome == "released",
    ("reserve", "extend"): lambda answer: answer.granted,
    ("settle", "reserve"): lambda answer: answer.granted,
    ("settle", "settle"): lambda answer: answer.outcome == "repeated",
    ("settle", "release"): lambda answer: answer.outcome == "repeated",
    ("settle", "extend"): lambda answer: answer.state == "settled" and not answer.granted,
    ("release", "reserve"): lambda answer: answer.granted,
    ("release", "settle"): lambda answer: answer.outcome == "corrected",
    ("release", "release"): lambda answer: answer.outcome == "repeated",
    ("release", "extend"): lambda answer: answer.state == "released" and not answer.granted,
    ("extend", "reserve"): lambda answer: answer.dimension == "tokens",
    ("extend", "settle"): lambda answer: answer.outcome == "settled",
    ("extend", "release"): lambda answer: answer.outcome == "released",
    ("extend", "extend"): lambda answer: answer.dimension == "tokens",
}


@pytest.mark.every_server
@pytest.mark.parametrize(("first", "second"), SECOND)
def test_second_caller_waits_and_sees_what_the_first_did(dsn: str, door: Door, first: str, second: str) -> None:
    user_id = door.user(tokens_limit=100)
    key = door.reserve(user_id, 50).id
    if (first, second) == ("reserve", "reserve"):
        door.release(user_id, key)
    with waiting(dsn, door, lambda other: CALLS[second](other, user_id, key)) as race_of_two:
        CALLS[first](door, user_id, key)
    assert SECOND[first, second](race_of_two.answer.value)
    quota = door.quota(user_id)
    assert quota.tokens_used + quota.tokens_held <= 100
    door.balance(user_id)


# The operations, through both faces.


@pytest.fixture
def call(face: Any) -> Callable[..., Any]:
    """Runs a plan of ops.quotas."""
    return face._driver.run


def new_user(face: Any) -> Any:
    return face.users.create(f"{uuid.uuid4().hex}@example.com")


def test_reserve_settle_and_usage(face: Any, call: Callable[..., Any]) -> None:
    user = new_user(face)
    held = call(quotas.reserve(user, tokens=400, cost="0.25", slots=1, builds=1, meta={"model": "m"}))
    assert (held.tokens, held.cost, held.state, held.epoch) == (400, Decimal("0.25"), "held", 1)
    usage = call(quotas.usage(user))
    assert (usage.tokens_used, usage.tokens_held, usage.tokens_limit) == (0, 400, 1_000_000)
    assert (usage.cost_held, usage.cost_limit, usage.slots_held, usage.slots_limit) == (Decimal("0.25"), 10, 1, 2)
    assert (usage.requests_last_hour, usage.builds_today) == (1, 1)
    assert call(quotas.extend(user, held.id, tokens=100, ttl=timedelta(minutes=5))).tokens == 500
    assert call(quotas.progress(user, held.id, tokens=10)) is True
    (hold,) = call(quotas.holds(user))
    assert (hold.tokens, hold.tokens_progressed, hold.meta) == (500, 10, {"model": "m"})
    done = call(quotas.settle(user, held.id, tokens=120, cost=Decimal("0.1")))
    assert (done.outcome, done.tokens, done.overrun) == ("settled", 120, False)
    assert call(quotas.settle(user, held.id, tokens=120)).outcome == "repeated"
    usage = call(quotas.usage(user))
    assert (usage.tokens_used, usage.tokens_held, usage.cost_used, usage.slots_held) == (120, 0, Decimal("0.1"), 0)
    assert call(quotas.verify(user)).balanced


def test_refusal_says_what_it_takes(face: Any, call: Callable[..., Any]) -> None:
    user = new_user(face)
    call(quotas.set_limits(user, tokens=1000, containers=1))
    with pytest.raises(QuotaExceeded, match="leaves 1000, and 1001 were asked for: more than it can ever") as never:
        call(quotas.reserve(user, tokens=1001))
    assert (never.value.dimension, never.value.remaining, never.value.retry_after) == ("tokens", 1000, None)
    assert never.value.exit_code == 4
    held = call(quotas.reserve(user, slots=1, holder="container-7"))
    with pytest.raises(QuotaExceeded, match="try again in") as later:
        call(quotas.reserve(user, slots=1))
    assert (later.value.dimension, later.value.holders) == ("containers", ("container-7",))
    assert later.value.resets_at == held.expires_at
    assert call(quotas.release(user, held.id)).outcome == "released"
    with pytest.raises(InvalidInput, match="released already"):
        call(quotas.reserve(user, slots=1, reservation_id=held.id))
    for ended in (
        quotas.extend(user, held.id, ttl=TTL),
        quotas.settle(user, uuid.uuid4()),
        quotas.release(user, user.id),
    ):
        with pytest.raises(NotFound):
            call(ended)


def test_limits_that_are_not_named_stay(face: Any, call: Callable[..., Any]) -> None:
    user = new_user(face)
    usage = call(quotas.set_limits(user, tokens=None, cost="2.5", builds_per_day=7))
    assert (usage.tokens_limit, usage.cost_limit, usage.slots_limit) == (None, Decimal("2.5"), 2)
    assert (usage.requests_limit, usage.builds_limit) == (100, 7)
    assert call(quotas.set_limits(user)) == usage
    changed = [event for event in face.events.recent(user) if event.type == "quota.limits_changed"]
    assert [event.meta["limits"] for event in changed] == [{"tokens": None, "cost": "2.5", "builds": 7}]


def test_check_tells_the_first_limit_that_is_reached(face: Any, call: Callable[..., Any]) -> None:
    user = new_user(face)
    assert call(quotas.check(user)).exceeded is False
    added = uuid.uuid4()
    for _ in range(2):
        call(quotas.add_tokens(user, 1_000_001, cost="10.5", meta={"model": "m"}, reservation_id=added))
    checked = call(quotas.check(user))
    assert (checked.exceeded, checked.dimension) == (True, "tokens")
    assert checked.reason == "tokens: 1000001 of 1000000 are taken"
    call(quotas.set_limits(user, tokens=None))
    assert call(quotas.check(user)).dimension == "cost"


def test_monthly_reset_closes_what_has_ended_and_nothing_twice(face: Any, call: Callable[..., Any], door: Door) -> None:
    call(quotas.reset_monthly())
    users = [new_user(face) for _ in range(3)]
    for user in users:
        call(quotas.add_tokens(user, 5))
    for user in users[:2]:
        door.end_period(user.id)
    usage = call(quotas.usage(users[0]))
    assert (usage.tokens_used, usage.period_end > datetime.now(UTC)) == (0, True)
    assert call(quotas.reset_monthly()) == 2
    assert call(quotas.reset_monthly()) == 0
    after = call(quotas.usage(users[0]))
    assert (after.period_start, after.period_end) == (usage.period_start, usage.period_end)
    assert call(quotas.usage(users[2])).tokens_used == 5


def test_verify_finds_books_that_do_not_balance(face: Any, call: Callable[..., Any], door: Door) -> None:
    user = new_user(face)
    call(quotas.add_tokens(user, 5))
    call(quotas.reserve(user, tokens=7))
    assert call(quotas.verify()).balanced
    door.change(user.id, tokens_used=6, tokens_held=0)
    audit = call(quotas.verify())
    (books,) = audit.unbalanced
    assert (books.user_id, books.tokens_used, books.tokens_charged) == (user.id, 6, 5)
    assert (books.tokens_held, books.tokens_promised) == (0, 7)
    assert audit.periods > 1
    door.change(user.id, tokens_used=5, tokens_held=7)


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
    with pytest.raises(InvalidInput) as refused:
        next(quotas.reserve(SimpleNamespace(id=uuid.uuid4()), reservation_id=uuid.uuid4(), **asked))  # type: ignore[arg-type]
    assert refused.value.field == field
