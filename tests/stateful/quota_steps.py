"""The single steps of the quota machine: each runs an operation, and predicts its answer by the model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from quota_model import HOURLY, PLANS, Hold, Model, TopUp
from quota_sql import QuotaSql

from atlas_sdk import Atlas, IdempotencyConflict, InvalidInput, NotFound
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.ops import limits, quota_accounting, quotas, refunds, users

amounts = st.integers(0, 60)
picks = st.integers(0, 2**16)
few = st.integers(0, 4)


class QuotaSteps(RuleBasedStateMachine):
    """Drives one user's quota through the operations, and through time."""

    atlas: ClassVar[Atlas]
    quota_sql: ClassVar[QuotaSql]

    @initialize()
    def begin(self) -> None:
        self.user = self.atlas.users.create(f"{uuid4().hex}@example.com", plan="small")
        self.model = Model()

    def teardown(self) -> None:
        """Delete the held reservations, because the end of the month in a later sequence is that of all users.

        A broken function that cannot end one of them would let that sequence fail at another step each time.
        """
        if hasattr(self, "user"):
            self.quota_sql.connection.execute("DELETE FROM quota_reservations WHERE user_id = %s", (self.user.id,))

    def run(self, plan: Any) -> Any:
        return self.atlas._view.run(plan)

    def refused(self, plan: Any, least: int, slots: int, requests: int) -> None:
        with pytest.raises(QuotaExceeded) as refused:
            self.run(plan)
        period_end = self.quota_sql.quota(self.user.id).period_end
        dimensions, helps = self.model.told(least, slots, requests, period_end)
        assert refused.value.dimension in dimensions
        assert (refused.value.retry_after is not None) is helps

    def pick(self, number: int) -> tuple[UUID, Hold | None]:
        """Choose a reservation, now and then one that never was."""
        if not self.model.holds or number % 17 == 0:
            return uuid4(), None
        return list(self.model.holds.items())[number % len(self.model.holds)]

    @rule(tokens=amounts, flexible=st.booleans(), slots=st.sampled_from([0, 0, 0, 1, 2]), requests=st.integers(1, 3))
    def reserve(self, *, tokens: int, flexible: bool, slots: int, requests: int = 1) -> None:
        least = min(tokens, 1) if flexible else tokens
        dimension = self.model.refuses(least, slots, requests)
        key = uuid4()
        asked: dict[str, Any] = {"tokens": tokens, "min_tokens": least, "slots": slots, "requests": requests}
        plan = quotas.reserve(self.user, **asked, reservation_id=key)
        if dimension is not None:
            self.refused(plan, least, slots, requests)
            return
        granted = min(tokens, self.model.left()) if tokens else 0
        assert self.run(plan).tokens == granted
        self.model.holds[key] = Hold(tokens=granted, slots=slots, asked=asked)
        self.model.requests += requests

    @rule(tokens=amounts, least=amounts, requests=few, holder=st.sampled_from(["a", "b", "c"]))
    def lease(self, tokens: int, least: int, requests: int, holder: str) -> None:
        least, key = min(least, tokens), uuid4()
        if not (tokens or requests):
            return
        asked: dict[str, Any] = {"tokens": tokens, "min_tokens": least, "requests": requests, "min_requests": 0}
        asked["holder"] = holder
        plan = quotas.lease_block(self.user, **asked, reservation_id=key)
        model, at_least, one = self.model, max(least, min(tokens, 1)), min(requests, 1)
        dimension = model.refuses(at_least, 0, one)
        if dimension is not None:
            self.refused(plan, at_least, 0, one)
            return
        hold = Hold(
            asked=asked,
            tokens=model.share(tokens, at_least, model.left(), model.limit, holder),
            requests=model.share(requests, one, model.requests_left(), model.requests_limit, holder),
            slots=0,
            holder=holder,
        )
        block = self.run(plan)
        assert (block.tokens, block.requests) == (hold.tokens, hold.requests)
        model.holds[key] = hold

    @rule(requests=st.integers(1, 5))
    def hit(self, requests: int) -> None:
        if self.model.refuses(0, 0, requests):
            self.refused(quotas.hit(self.user, requests=requests), 0, 0, requests)
            return
        rate = self.run(quotas.hit(self.user, requests=requests))
        self.model.requests += requests
        limit = self.model.requests_limit
        assert (rate.limit, rate.remaining) == (limit, None if limit is None else self.model.requests_left())

    @rule(number=picks)
    def reserve_again(self, number: int) -> None:
        key, hold = self.pick(number)
        if hold is not None:
            self.repeat(key, hold)

    def repeat(self, key: UUID, hold: Hold) -> None:
        leased = hold.holder is not None
        reserve: Any = quotas.lease_block if leased else quotas.reserve
        plan = reserve(self.user, **hold.asked, reservation_id=key)
        if hold.state in {"expired", "released"} or (leased and hold.state == "settled"):
            with pytest.raises(InvalidInput, match=hold.state):
                self.run(plan)
            return
        again = self.run(plan)
        assert (again.repeated, again.tokens) == (True, hold.tokens)
        assert leased or again.state == hold.state

    @rule(number=picks, more=st.sampled_from([("tokens", 1), ("requests", 1), ("slots", 1)]))
    def reuse_an_id_for_another_call(self, number: int, more: tuple[str, int]) -> None:
        key, hold = self.pick(number)
        if hold is None:
            return
        name, amount = more
        asked = {"slots": 0, **hold.asked}
        if hold.holder is not None:
            # A block has other minima.
            asked |= {"min_tokens": None}
            del asked["min_requests"]
        plan = quotas.reserve(self.user, **{**asked, name: asked[name] + amount}, reservation_id=key)
        with pytest.raises(IdempotencyConflict):
            self.run(plan)

    @rule(number=picks, tokens=st.none() | st.integers(0, 70), requests=st.none() | few)
    def settle(self, number: int, tokens: int | None, requests: int | None = None) -> None:
        key, hold = self.pick(number)
        plan = quotas.settle(self.user, key, tokens=tokens, requests=requests)
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
        tokens = max(tokens, hold.refunded)
        made = 0
        if hold.holder is not None:
            made = hold.requests_counted if requests is None else requests
            made -= 0 if hold.state == "held" else hold.requests_counted
        over = tokens > hold.tokens or (hold.state == "held" and hold.holder is not None and made > hold.requests)
        assert (done.outcome, done.tokens, done.overrun) == (outcome, tokens, over)
        self.model.end(hold, "settled", tokens, made)

    @rule(number=picks)
    def release(self, number: int) -> None:
        key, hold = self.pick(number)
        if hold is None:
            with pytest.raises(NotFound):
                self.run(quotas.release(self.user, key))
            return
        done = self.run(quotas.release(self.user, key))
        if hold.state in {"settled", "released"}:
            assert (done.outcome, done.tokens) == ("repeated", hold.charged)
            return
        if hold.state == "expired":
            charged = max(hold.progressed, hold.refunded)
            self.model.end(hold, "settled", charged, 0 if hold.progressed else -hold.requests)
            assert (done.outcome, done.tokens) == ("corrected", hold.charged)
            return
        if hold.progressed:
            self.model.end(hold, "settled", hold.progressed, hold.requests)
        else:
            self.model.end(hold, "released", 0, 0)
        assert (done.outcome, done.tokens) == (hold.state, hold.charged)

    @rule(number=picks, tokens=st.none() | st.integers(1, 70))
    def refund(self, number: int, tokens: int | None) -> None:
        key, hold = self.pick(number)
        refund_id = uuid4()

        def plan() -> Any:
            return refunds.refund(self.user, key, tokens=tokens, reason="a mistake", refund_id=refund_id)

        if hold is None:
            with pytest.raises(NotFound):
                self.run(plan())
            return
        held = hold.state == "held" and not hold.overdue
        left = hold.tokens if hold.state == "held" else hold.charged - hold.refunded
        back = left if tokens is None else tokens
        if held or not 0 < back <= left:
            with pytest.raises(InvalidInput, match="still held" if held else "are left"):
                self.run(plan())
            return
        assert self.run(plan()).tokens == back
        if hold.state == "held":
            # An overdue reservation is charged first, and all others with it.
            self.model.reclaim()
        self.model.refund(hold, back)
        assert self.run(plan()).repeated

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
            self.quota_sql.expire(key)
            hold.overdue = True

    @rule(limit=st.none() | st.integers(0, 300), slots=st.none() | st.integers(0, 4))
    def change_limits(self, limit: int | None, slots: int | None) -> None:
        self.run(limits.set_limits(self.user, tokens=limit, containers=slots))
        self.model.base, self.model.slots_limit, self.model.by_hand = limit, slots, True

    @rule(limit=st.none() | st.integers(5, 40))
    def change_requests(self, limit: int | None) -> None:
        self.run(limits.set_limits(self.user, requests_per_hour=limit))
        self.model.requests_limit = limit

    @rule(plan=st.sampled_from(list(PLANS)))
    def change_plan(self, plan: str) -> None:
        self.user = self.run(users.set_plan(self.user, plan))
        self.model.plan = plan
        self.model.take_plan()

    @rule()
    def use_plan_limits(self) -> None:
        self.run(limits.use_plan_limits(self.user))
        self.model.by_hand, self.model.requests_limit = False, HOURLY
        self.model.take_plan()

    @rule(tokens=st.integers(1, 60), expires=st.booleans())
    def grant(self, *, tokens: int, expires: bool) -> None:
        expires_in = timedelta(days=1) if expires else None
        made = self.run(limits.grant(self.user, tokens=tokens, expires_in=expires_in))
        self.model.top_ups.append(TopUp(id=made.id, tokens=tokens, expires=expires, expires_at=made.expires_at))
        self.model.granted += tokens

    @rule(number=picks)
    def grant_expires(self, number: int) -> None:
        if self.model.top_ups:
            top_up = self.model.top_ups[number % len(self.model.top_ups)]
            top_up.overdue = True
            self.model.burn(period_ends=False)
            self.quota_sql.expire_grant(self.user.id, top_up.id)
            assert self.run(quota_accounting.usage(self.user)).tokens_limit == self.model.limit
            self.run(quotas.add_tokens(self.user, 0))

    @rule(number=picks)
    def month_ends(self, number: int) -> None:
        if number % 3:
            return
        self.quota_sql.end_period(self.user.id)
        self.model.reclaim()
        self.model.burn(period_ends=True)
        self.model.added_before += self.model.added
        self.model.added = 0
        for hold in self.model.holds.values():
            hold.age += 1
        self.run(quota_accounting.reset_monthly())

    @invariant()
    def counters_are_the_model(self) -> None:
        usage = self.run(quota_accounting.usage(self.user))
        overdue = self.model.overdue()
        tokens = sum(hold.tokens for hold in overdue if not hold.age)
        assert (usage.tokens_used, usage.tokens_held) == (self.model.used() + tokens, self.model.held() - tokens)
        slots = self.model.slots() - sum(hold.slots for hold in overdue)
        assert (usage.slots_held, usage.slots_limit) == (slots, self.model.slots_limit)
        assert (usage.tokens_limit, usage.tokens_granted) == (self.model.limit, self.model.granted)
        lost = sum(hold.requests for hold in overdue)
        requests = (self.model.requests + lost, self.model.requests_held() - lost, self.model.requests_limit)
        assert (usage.requests_last_hour, usage.requests_held, usage.requests_limit) == requests

    @invariant()
    def earlier_months_are_the_model(self) -> None:
        told = self.quota_sql.value(
            "SELECT coalesce(sum(tokens_used), 0) FROM quota_history WHERE user_id = %s", self.user.id
        )
        charged = (hold.charged - hold.refunded for hold in self.model.holds.values() if hold.age)
        before = self.model.added_before + sum(charged)
        assert told == before

    @invariant()
    def books_balance(self) -> None:
        assert self.run(quota_accounting.verify(self.user)).balanced
