"""Quotas against a model: every answer of the database is predicted by a few lines of Python.

The sequences are the same in every run. To look for new ones, for longer:
`ATLAS_MACHINE_EXAMPLES=2000 pytest tests/stateful/test_quota_machine.py`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from quota_model import HOURLY, PLANS
from quota_sql import QuotaSql
from quota_steps import QuotaSteps, amounts, picks
from quota_wait_rules import WaitRules

from atlas_sdk import Atlas

EXAMPLES = int(os.environ.get("ATLAS_MACHINE_EXAMPLES", "0"))


class QuotaMachine(QuotaSteps, WaitRules):
    """Runs single steps, and sequences of steps that are rare otherwise."""

    @rule(tokens=amounts)
    def answer_is_lost(self, tokens: int) -> None:
        known = len(self.model.holds)
        self.reserve(tokens=tokens, flexible=True, slots=1)
        for key, hold in list(self.model.holds.items())[known:]:
            self.repeat(key, hold)

    @rule(number=picks, first=st.integers(0, 70), second=st.integers(0, 70))
    def settle_twice(self, number: int, first: int, second: int) -> None:
        self.settle(number=number, tokens=first)
        self.settle(number=number, tokens=second)

    @rule(number=picks, tokens=st.integers(1, 60), later=st.booleans())
    def a_charge_was_wrong(self, *, number: int, tokens: int, later: bool) -> None:
        """A call that took all top-ups along is refunded in two parts, perhaps in the next month."""
        known = len(self.model.holds)
        self.reserve(tokens=1000, flexible=True, slots=0)
        if len(self.model.holds) == known or not known % 17:
            return
        self.settle(number=known, tokens=None)
        if later:
            self.month_ends(number=0)
        self.refund(number=known, tokens=tokens)
        self.settle(number=known, tokens=number % 70)
        self.refund(number=known, tokens=None)

    @rule(number=picks, tokens=st.integers(1, 60), used=amounts, silent=st.booleans())
    def an_expiry_was_wrong(self, *, number: int, tokens: int, used: int, silent: bool) -> None:
        """What an expiry charged is refunded, and then its caller tells what was used."""
        self.holder_goes_silent(number=number)
        self.refund(number=number, tokens=tokens)
        if silent:
            self.release(number=number)
        else:
            self.settle(number=number, tokens=used)
        self.refund(number=number, tokens=None)

    @rule(number=picks, tokens=st.integers(1, 60), settles=st.booleans())
    def stream_breaks_off(self, *, number: int, tokens: int, settles: bool) -> None:
        self.progress(number=number, tokens=tokens)
        if settles:
            self.settle(number=number, tokens=None)
        else:
            self.release(number=number)

    @rule(number=picks, tokens=amounts)
    def silence_is_noticed(self, number: int, tokens: int) -> None:
        """Only a refusal ends what is overdue, and only after it can a settlement be late."""
        self.holder_goes_silent(number=number)
        if self.model.limit is not None:
            self.reserve(tokens=self.model.limit + 1, flexible=False, slots=0)
        self.settle(number=number, tokens=tokens)

    @rule(tokens=amounts, times=st.integers(1, 3))
    def blocks_pile_up(self, tokens: int, times: int) -> None:
        for _ in range(times):
            self.lease(tokens=60, least=0, requests=1, holder="a")
        self.lease(tokens=tokens, least=0, requests=4, holder="a")

    @rule(tokens=amounts)
    def slot_is_lost(self, tokens: int) -> None:
        known = len(self.model.holds)
        self.reserve(tokens=tokens, flexible=True, slots=1)
        for key, hold in list(self.model.holds.items())[known:]:
            self.quota_sql.expire(key)
            hold.overdue = True
        if self.model.limit is not None:
            self.reserve(tokens=self.model.limit + 1, flexible=False, slots=0)

    @rule(number=picks, tokens=amounts, silent=st.booleans())
    def month_ends_before_a_call_does(self, *, number: int, tokens: int, silent: bool) -> None:
        self.month_ends(number=0)
        self.reserve(tokens=60, flexible=True, slots=0)
        if silent:
            self.silence_is_noticed(number=number, tokens=tokens)
        else:
            self.settle(number=number, tokens=tokens)

    @rule(tokens=st.integers(1, 60), used=amounts, silent=st.booleans())
    def promise_outlives_the_month(self, *, tokens: int, used: int, silent: bool) -> None:
        """It has taken the whole of a top-up along, and then costs less."""
        self.grant(tokens=tokens, expires=False)
        known = len(self.model.holds)
        self.reserve(tokens=1000, flexible=True, slots=0)
        self.month_ends(number=0)
        if len(self.model.holds) > known and known % 17:
            if silent:
                self.silence_is_noticed(number=known, tokens=used)
            else:
                self.settle(number=known, tokens=used)

    @rule(tokens=st.integers(1, 60), used=amounts)
    def two_promises_outlive_the_month(self, *, tokens: int, used: int) -> None:
        """What both of them had taken of a top-up comes back once."""
        self.grant(tokens=tokens, expires=False)
        known = len(self.model.holds)
        for _ in range(2):
            self.reserve(tokens=60, flexible=True, slots=0)
        self.month_ends(number=0)
        for number in range(known, len(self.model.holds)):
            if number % 17:
                self.settle(number=number, tokens=used)

    @rule(tokens=st.integers(1, 60), used=amounts)
    def one_of_two_top_ups_expires(self, *, tokens: int, used: int) -> None:
        """With a promise at work that needs both, and then costs less: the other one is charged at the month's end."""
        for expires in (True, False):
            self.grant(tokens=tokens, expires=expires)
        known = len(self.model.holds)
        self.reserve(tokens=1000, flexible=True, slots=0)
        self.grant_expires(number=len(self.model.top_ups) - 2)
        if len(self.model.holds) > known and known % 17:
            self.settle(number=known, tokens=used)
        self.month_ends(number=0)

    @rule(tokens=st.integers(20, 60), used=st.integers(1, 10), all_is_held=st.booleans())
    def a_top_up_does_not_help_next_month(self, *, tokens: int, used: int, all_is_held: bool) -> None:
        """It expires before, or reservations may need it: no time may be promised for it."""
        self.month_ends(number=0)
        self.grant(tokens=tokens, expires=not all_is_held)
        if self.model.base is None:
            return
        if all_is_held:
            self.reserve(tokens=1000, flexible=True, slots=0)
            self.reserve(tokens=self.model.base + 1, flexible=False, slots=0)
        else:
            self.add(tokens=used)
            self.reserve(tokens=max(self.model.left(), 0) + 1, flexible=False, slots=0)

    @rule()
    def one_limit_yields_with_time_and_one_never(self) -> None:
        """The next month has tokens for the call, but it asks for more containers than the limit at any time."""
        if not self.model.base or self.model.slots_limit is None:
            return
        self.reserve(tokens=1000, flexible=True, slots=0)
        self.reserve(tokens=1, flexible=False, slots=self.model.slots_limit + 1)

    @rule(tokens=amounts)
    def month_is_busy(self, tokens: int) -> None:
        self.add(tokens=(self.model.base or 0) + tokens // 4)
        self.month_ends(number=0)


def drive(dsn: str, examples: int) -> None:
    """Run so many sequences on a database."""
    with QuotaSql(dsn) as quota_sql, Atlas.open(dsn) as atlas:
        QuotaMachine.atlas, QuotaMachine.quota_sql = atlas, quota_sql
        for name, (tokens, containers) in PLANS.items():
            atlas.quotas.add_plan(
                name, tokens=tokens, containers=containers, requests_per_hour=HOURLY, cost=None, builds_per_day=None
            )
        run_state_machine_as_test(
            QuotaMachine,
            settings=settings(
                max_examples=EXAMPLES or examples,
                stateful_step_count=30,
                deadline=None,
                derandomize=not EXAMPLES,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_quotas_agree_with_the_model(dsn: str) -> None:
    drive(dsn, 40)
