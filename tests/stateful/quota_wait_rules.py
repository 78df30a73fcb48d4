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
from atlas_sdk.ops import quota_accounting, quota_waits
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


class WaitRules:
    """Rules for `QuotaMachine`."""

    user: User
    model: Model
    quota_sql: QuotaSql

    def run(self, plan: Any) -> Any:
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
            assert self.run(plan).tokens == granted
            model.queue.pop(key, None)
            model.holds[key] = Hold(tokens=granted, slots=waiter.slots)
            model.requests += waiter.requests

    @invariant()
    def queue_is_the_model(self) -> None:
        assert self.quota_sql.waiters(self.user.id) == list(self.model.queue)
        assert self.run(quota_accounting.usage(self.user)).waiting == len(self.model.queue)
        assert (self.quota_sql.quota(self.user.id).waiting_until is None) == (not self.model.queue)
