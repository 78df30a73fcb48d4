"""The rules of waiting calls for the machine of the quotas: a queue that serves the first that came."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from quota_model import Hold, Waiter

from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.model.quotas import Reservation
from atlas_sdk.ops import quota_waits, quotas
from atlas_sdk.ops.quota_waits import Queued

if TYPE_CHECKING:
    from quota_model import Model
    from quota_sql import QuotaSql

    from atlas_sdk import User

tokens = st.integers(0, 60)
picks = st.integers(0, 3)
#: Shorter than the hour in which no request comes back.
WAIT = timedelta(minutes=10)
#: The machine may be slow, so no call in it dies by itself.
NEVER_DIES = """
WITH kept AS (UPDATE quota_waiters SET alive_until = now() + interval '1 day' WHERE user_id = %s)
UPDATE user_quotas SET waiting_until = now() + interval '1 day' WHERE user_id = %s AND waiting_until IS NOT NULL
"""


QUEUE = """
SELECT q.waiting_until,
       ARRAY(SELECT w.id FROM quota_waiters AS w WHERE w.user_id = q.user_id ORDER BY w.number) AS calls
FROM user_quotas AS q WHERE q.user_id = %s
"""


class WaitRules:
    """Rules for `QuotaMachine`."""

    user: User
    model: Model
    quota_sql: QuotaSql

    def run(self, plan: Any) -> Any:
        raise NotImplementedError

    def reserve(self, *, tokens: int, flexible: bool, slots: int) -> None:
        raise NotImplementedError

    @rule(
        tokens=st.integers(0, 60), flexible=st.booleans(), slots=st.sampled_from([0, 0, 1]), requests=st.integers(1, 3)
    )
    def wait(self, *, tokens: int, flexible: bool, slots: int, requests: int) -> None:
        least = min(tokens, 1) if flexible else tokens
        self.ask(uuid4(), Waiter(tokens=tokens, least=least, slots=slots, requests=requests), WAIT)

    @rule(number=picks)
    def ask_again(self, number: int) -> None:
        if self.model.queue:
            key = list(self.model.queue)[number % len(self.model.queue)]
            self.ask(key, self.model.queue[key], WAIT)

    @rule()
    def queue_is_served(self) -> None:
        for key, waiter in list(self.model.queue.items()):
            self.ask(key, waiter, WAIT)

    @rule(first=st.integers(1, 60), second=st.integers(0, 60), used=tokens)
    def queue_forms(self, *, first: int, second: int, used: int) -> None:
        """Behind a call that has taken all tokens. When it ends, the second call asks before the first."""
        known = len(self.model.holds)
        self.reserve(tokens=1000, flexible=True, slots=0)
        self.wait(tokens=first, flexible=False, slots=0, requests=1)
        self.wait(tokens=second, flexible=True, slots=0, requests=1)
        self.ask_again(number=0)
        for key in list(self.model.holds)[known:]:
            hold = self.model.holds[key]
            if hold.state == "held":
                self.run(quotas.settle(self.user, key, tokens=min(used, hold.tokens)))
                self.model.end(hold, "settled", min(used, hold.tokens), 0)
        self.ask_again(number=1)
        self.queue_is_served()

    @rule(number=picks)
    def wait_is_over(self, number: int) -> None:
        if self.model.queue:
            key = list(self.model.queue)[number % len(self.model.queue)]
            self.ask(key, self.model.queue[key], timedelta())

    @rule(number=picks)
    def wait_is_cancelled(self, number: int) -> None:
        if self.model.queue:
            key = list(self.model.queue)[number % len(self.model.queue)]
            del self.model.queue[key]
            assert self.run(quota_waits.leave(self.user, key))

    def ask(self, key: UUID, waiter: Waiter, wait: timedelta) -> None:
        """Let a call ask, and predict the answer."""
        model = self.model
        in_turn = not wait or next(iter(model.queue), key) == key
        refused = model.refuses(waiter.least, waiter.slots, waiter.requests) if in_turn else "others are ahead"
        final = refused if not wait else model.never_fits(waiter) if refused else None
        granted = min(waiter.tokens, model.left()) if waiter.tokens else 0
        plan = quota_waits.take_turn(
            self.user,
            reservation_id=key,
            wait=wait,
            waited=None,
            tokens=waiter.tokens,
            min_tokens=waiter.least,
            slots=waiter.slots,
            requests=waiter.requests,
        )
        if final is not None:
            with pytest.raises(QuotaExceeded) as refusal:
                self.run(plan)
            assert refusal.value.dimension == final
            model.queue.pop(key, None)
        elif refused is not None:
            assert isinstance(self.run(plan), Queued)
            model.queue.setdefault(key, waiter)
            self.quota_sql.connection.execute(NEVER_DIES, (self.user.id, self.user.id))
        else:
            held = self.run(plan)
            assert isinstance(held, Reservation), "others wait no more"
            assert held.tokens == granted
            model.queue.pop(key, None)
            model.holds[key] = Hold(tokens=granted, slots=waiter.slots)
            model.requests += waiter.requests

    @invariant()
    def queue_is_the_model(self) -> None:
        found = self.quota_sql.row(QUEUE, self.user.id)
        assert found.calls == list(self.model.queue)
        assert (found.waiting_until is None) == (not self.model.queue)
