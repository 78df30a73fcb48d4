"""Quotas against a model: every answer of the database is predicted by a few lines of Python.

The sequences are the same in every run. To look for new ones, for longer:
`ATLAS_MACHINE_EXAMPLES=2000 pytest tests/stateful/test_quota_machine.py`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from attrs import define, field
from doors import Door
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from atlas_sdk import Atlas, InvalidInput, NotFound
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.ops import books, limits, quotas

EXAMPLES = int(os.environ.get("ATLAS_MACHINE_EXAMPLES", "0"))

amounts = st.integers(0, 60)
picks = st.integers(0, 2**16)


@define
class Hold:
    """A reservation as the model knows it."""

    tokens: int
    slots: int
    progressed: int = 0
    overdue: bool = False
    #: "held", then "settled", "expired" or "released".
    state: str = "held"
    #: What it is charged with.
    charged: int = 0
    #: Periods that have ended since it was granted.
    age: int = 0


@define
class Model:
    """What must be so."""

    limit: int | None = 100
    slots_limit: int | None = 2
    holds: dict[UUID, Hold] = field(factory=dict)
    #: What is charged without a reservation, in this period and in earlier ones.
    added: int = 0
    added_before: int = 0

    def held(self) -> int:
        return sum(hold.tokens for hold in self.holds.values() if hold.state == "held" and not hold.age)

    def used(self) -> int:
        return self.added + sum(hold.charged for hold in self.holds.values() if not hold.age)

    def slots(self) -> int:
        return sum(hold.slots for hold in self.holds.values() if hold.state == "held")

    def left(self) -> int:
        return 10**12 if self.limit is None else self.limit - self.used() - self.held()

    def fits(self, least: int, slots: int) -> str | None:
        """Name the dimension that refuses."""
        if least > 0 and least > self.left():
            return "tokens"
        if slots > 0 and self.slots_limit is not None and self.slots() + slots > self.slots_limit:
            return "containers"
        return None

    def reclaim(self) -> None:
        for hold in self.holds.values():
            if hold.state == "held" and hold.overdue:
                hold.state, hold.charged = "expired", hold.tokens


class QuotaMachine(RuleBasedStateMachine):
    """Drives one user's quota through the operations, and through time."""

    atlas: ClassVar[Atlas]
    door: ClassVar[Door]

    @initialize()
    def begin(self) -> None:
        self.user = self.atlas.users.create(f"{uuid4().hex}@example.com")
        self.model = Model()
        self.run(limits.set_limits(self.user, tokens=100, containers=2, requests_per_hour=None, cost=None))

    def run(self, plan: Any) -> Any:
        return self.atlas._driver.run(plan)

    def pick(self, number: int) -> tuple[UUID, Hold | None]:
        """Choose a reservation, now and then one that never was."""
        if not self.model.holds or number % 17 == 0:
            return uuid4(), None
        return list(self.model.holds.items())[number % len(self.model.holds)]

    @rule(tokens=amounts, flexible=st.booleans(), slots=st.sampled_from([0, 0, 0, 1, 2]))
    def reserve(self, *, tokens: int, flexible: bool, slots: int) -> None:
        least = min(tokens, 1) if flexible else tokens
        refuses = self.model.fits(least, slots)
        if refuses is not None:
            self.model.reclaim()
            refuses = self.model.fits(least, slots)
        key = uuid4()
        plan = quotas.reserve(self.user, tokens=tokens, min_tokens=least, slots=slots, reservation_id=key)
        if refuses is not None:
            with pytest.raises(QuotaExceeded) as refused:
                self.run(plan)
            assert refused.value.dimension == refuses
            return
        granted = min(tokens, self.model.left()) if tokens else 0
        assert self.run(plan).tokens == granted
        self.model.holds[key] = Hold(tokens=granted, slots=slots)

    @rule(number=picks)
    def reserve_again(self, number: int) -> None:
        key, hold = self.pick(number)
        if hold is None:
            return
        plan = quotas.reserve(self.user, tokens=hold.tokens, slots=hold.slots, reservation_id=key)
        if hold.state in {"expired", "released"}:
            with pytest.raises(InvalidInput, match=hold.state):
                self.run(plan)
            return
        again = self.run(plan)
        assert (again.repeated, again.tokens, again.state) == (True, hold.tokens, hold.state)

    @rule(number=picks, tokens=st.none() | st.integers(0, 70))
    def settle(self, number: int, tokens: int | None) -> None:
        key, hold = self.pick(number)
        plan = quotas.settle(self.user, key, tokens=tokens)
        if hold is None:
            with pytest.raises(NotFound):
                self.run(plan)
            return
        done = self.run(plan)
        if hold.state == "settled":
            assert (done.outcome, done.tokens) == ("repeated", hold.charged)
            return
        if tokens is None:
            tokens = (hold.progressed or hold.tokens) if hold.state == "held" else hold.charged
        outcome = "settled" if hold.state == "held" else "corrected"
        assert (done.outcome, done.tokens, done.overrun) == (outcome, tokens, tokens > hold.tokens)
        hold.state, hold.charged = "settled", tokens

    @rule(number=picks, first=st.integers(0, 70), second=st.integers(0, 70))
    def settle_twice(self, number: int, first: int, second: int) -> None:
        self.settle(number=number, tokens=first)
        self.settle(number=number, tokens=second)

    @rule(number=picks)
    def release(self, number: int) -> None:
        key, hold = self.pick(number)
        if hold is None:
            with pytest.raises(NotFound):
                self.run(quotas.release(self.user, key))
            return
        done = self.run(quotas.release(self.user, key))
        if hold.state != "held":
            assert done.outcome == "repeated"
            return
        hold.state, hold.charged = ("settled", hold.progressed) if hold.progressed else ("released", 0)
        assert (done.outcome, done.tokens) == (hold.state, hold.charged)

    @rule(number=picks, tokens=amounts)
    def extend(self, number: int, tokens: int) -> None:
        key, hold = self.pick(number)
        if hold is not None and hold.state == "held" and self.model.fits(tokens, 0):
            self.model.reclaim()
        plan = quotas.extend(self.user, key, tokens=tokens, ttl=timedelta(hours=1))
        if hold is None or hold.state != "held":
            with pytest.raises(NotFound):
                self.run(plan)
        elif self.model.fits(tokens, 0) or (hold.age and tokens):
            with pytest.raises(QuotaExceeded):
                self.run(plan)
        else:
            hold.tokens += tokens
            hold.overdue = False
            assert self.run(plan).tokens == hold.tokens

    @rule(number=picks, tokens=amounts)
    def progress(self, number: int, tokens: int) -> None:
        key, hold = self.pick(number)
        known = hold is not None and hold.state == "held"
        assert self.run(quotas.progress(self.user, key, tokens=tokens)) is known
        if hold is not None and known:
            hold.progressed = max(hold.progressed, tokens)

    @rule(tokens=amounts)
    def add(self, tokens: int) -> None:
        self.run(quotas.add_tokens(self.user, tokens))
        self.model.added += tokens

    @rule(number=picks)
    def holder_goes_silent(self, number: int) -> None:
        key, hold = self.pick(number)
        if hold is not None and hold.state == "held":
            self.door.expire(key)
            hold.overdue = True

    @rule(number=picks, tokens=amounts)
    def silence_is_noticed(self, number: int, tokens: int) -> None:
        """Only a refusal ends what is overdue, and only after it can a settlement be late."""
        self.holder_goes_silent(number=number)
        if self.model.limit is not None:
            self.reserve(tokens=self.model.limit + 1, flexible=False, slots=0)
        self.settle(number=number, tokens=tokens)

    @rule(limit=st.none() | st.integers(0, 300), slots=st.none() | st.integers(0, 4))
    def change_limits(self, limit: int | None, slots: int | None) -> None:
        self.run(limits.set_limits(self.user, tokens=limit, containers=slots))
        self.model.limit, self.model.slots_limit = limit, slots

    @rule(number=picks)
    def month_ends(self, number: int) -> None:
        if number % 3:
            return
        self.door.end_period(self.user.id)
        self.model.added_before += self.model.added
        self.model.added = 0
        for hold in self.model.holds.values():
            hold.age += 1
        self.run(books.reset_monthly())

    @invariant()
    def counters_are_the_model(self) -> None:
        usage = self.run(books.usage(self.user))
        assert (usage.tokens_used, usage.tokens_held) == (self.model.used(), self.model.held())
        assert (usage.slots_held, usage.tokens_limit) == (self.model.slots(), self.model.limit)

    @invariant()
    def earlier_months_are_the_model(self) -> None:
        told = self.door.value(
            "SELECT coalesce(sum(tokens_used), 0) FROM quota_history WHERE user_id = %s", self.user.id
        )
        before = self.model.added_before + sum(hold.charged for hold in self.model.holds.values() if hold.age)
        assert told == before

    @invariant()
    def books_balance(self) -> None:
        assert self.run(books.verify(self.user)).balanced


def test_quotas_agree_with_the_model(dsn: str) -> None:
    door = Door(dsn)
    with Atlas.open(dsn) as atlas, door.connection:
        QuotaMachine.atlas, QuotaMachine.door = atlas, door
        run_state_machine_as_test(
            QuotaMachine,
            settings=settings(
                max_examples=EXAMPLES or 40,
                stateful_step_count=30,
                deadline=None,
                derandomize=not EXAMPLES,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
