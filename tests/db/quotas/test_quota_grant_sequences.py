"""Sequences of calls on a user with top-ups: nothing is spent twice, and `usage` predicts the next call's state."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quota_sql import QuotaSql


def look(quota_sql: QuotaSql, user_id: uuid.UUID) -> Any:
    """Let the database update the row without another change; return the row."""
    quota_sql.change(user_id, containers_limit=0)
    assert not quota_sql.reserve(user_id, slots=1).granted
    return quota_sql.quota(user_id)


# Sequences.

Step = tuple[str, int | None, int | None]
AMOUNTS = st.integers(0, 80)
STEPS = st.one_of(
    st.tuples(st.just("grant"), AMOUNTS, st.sampled_from([None, 1, 9])),
    st.tuples(st.just("hold"), AMOUNTS, st.none()),
    st.tuples(st.just("settle"), AMOUNTS, st.none()),
    st.tuples(st.just("silence"), AMOUNTS, st.none()),
    st.tuples(st.just("expire"), st.integers(0, 9), st.none()),
    st.tuples(st.just("end"), st.just(0), st.none()),
    st.tuples(st.just("look"), st.just(0), st.none()),
)
CHANGES = st.one_of(
    st.tuples(st.just("add"), AMOUNTS, st.none()),
    st.tuples(st.just("limit"), st.sampled_from([None, None, 0, 30, 200]), st.none()),
)
#: The first steps: a limit, and top-ups.
BEGIN = st.tuples(
    st.sampled_from([None, 0, 100]), st.lists(st.tuples(AMOUNTS, st.sampled_from([None, 1])), max_size=2)
).map(lambda drawn: [("limit", drawn[0], None), *(("grant", tokens, days) for tokens, days in drawn[1])])
QUIET = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SEEN = ("tokens_used", "tokens_held", "tokens_limit", "tokens_granted", "cost_used", "cost_held", "cost_limit")


SEEN += ("cost_granted", "period_start", "period_end")


class Sequence:
    """Steps on one user. Each token costs one cent."""

    def __init__(self, quota_sql: QuotaSql) -> None:
        self.quota_sql = quota_sql
        self.user_id = quota_sql.user(tokens_limit=100, cost_limit=1)
        self.granted = 0
        self.periods = 1
        self.used = 0
        self.grants: list[uuid.UUID] = []
        self.holds: list[Any] = []

    def step(self, kind: str, number: int | None, days: int | None) -> None:
        n = number or 0
        if kind == "grant" and n:
            self.grants.append(self.quota_sql.grant(self.user_id, n, Decimal(n) / 100, days=days))
            self.granted += n
        elif kind == "hold" and n:
            held = self.quota_sql.reserve(self.user_id, n, min_tokens=1)
            self.holds += [held] if held.granted else []
        elif kind == "settle" and self.holds:
            held = self.holds.pop(n % len(self.holds))
            used = min(n, held.tokens)
            self.used += used
            self.quota_sql.settle(self.user_id, held.id, used, 0)
        elif kind == "silence" and self.holds:
            self.quota_sql.expire(self.holds[n % len(self.holds)].id)
        elif kind == "expire" and self.grants:
            self.quota_sql.expire_grant(self.user_id, self.grants[n % len(self.grants)])
        elif kind == "end":
            self.quota_sql.end_period(self.user_id)
            self.periods += 1
        elif kind == "add":
            self.quota_sql.add(self.user_id, n, Decimal(n) / 100)
        elif kind == "limit":
            self.quota_sql.connection.execute(
                "UPDATE user_quotas SET tokens_limit = %(n)s + tokens_granted, cost_limit = %(n)s * 0.01 + cost_granted"
                " WHERE user_id = %(u)s",
                {"n": number, "u": self.user_id},
            )
        elif kind == "look":
            look(self.quota_sql, self.user_id)

    def check(self) -> None:
        """Check that the next call finds the reported state, and that the open grants explain the limits."""
        told = self.quota_sql.usage(self.user_id)
        quota = look(self.quota_sql, self.user_id)
        assert [(name, getattr(told, name)) for name in SEEN] == [(name, getattr(quota, name)) for name in SEEN]
        opened = [grant for grant in self.quota_sql.grants(self.user_id).values() if grant.closed_at is None]
        assert quota.tokens_granted - quota.tokens_burned == sum(g.tokens - g.tokens_burned for g in opened)
        assert quota.cost_granted - quota.cost_burned == sum(g.cost - g.cost_burned for g in opened)
        assert quota.grants_expire_at == min((g.expires_at for g in opened if g.expires_at), default=None)


@pytest.mark.every_server
@QUIET
@given(begin=BEGIN, steps=st.lists(STEPS | CHANGES, min_size=1, max_size=12))
def test_usage_tells_what_the_next_call_finds(quota_sql: QuotaSql, begin: list[Step], steps: list[Step]) -> None:
    sequence = Sequence(quota_sql)
    for step in begin + steps:
        sequence.step(*step)
    sequence.check()
    sequence.check()
    quota_sql.balance(sequence.user_id)


@pytest.mark.every_server
@QUIET
@given(begin=BEGIN, steps=st.lists(STEPS, min_size=4, max_size=25))
def test_top_ups_are_spent_at_most_once(quota_sql: QuotaSql, begin: list[Step], steps: list[Step]) -> None:
    sequence = Sequence(quota_sql)
    for step in begin[1:] + steps:
        sequence.step(*step)
    for index in range(len(sequence.holds)):
        sequence.step("settle", 80 + index, None)
    assert sequence.used <= 100 * sequence.periods + sequence.granted
    # The rest of the open grants can still be spent.
    sequence.check()
    left = sum(g.tokens - g.tokens_burned for g in quota_sql.grants(sequence.user_id).values() if g.closed_at is None)
    assert left <= sequence.granted
    quota_sql.balance(sequence.user_id)
