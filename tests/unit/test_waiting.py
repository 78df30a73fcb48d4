"""The times at which a waiting call asks again, and the notifications that wake it. Without a database."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import Notify

from atlas_sdk import User
from atlas_sdk._drive.listen_state import ListenState
from atlas_sdk._drive.subscriptions import Subscription, Subscriptions
from atlas_sdk.errors import InvalidInput
from atlas_sdk.guards import AsyncGuard, AsyncSlot, Guard, Slot
from atlas_sdk.guards.options import check_lease_options, check_options
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Reservation
from atlas_sdk.ops.quota_waits import Queued

USER = User(
    id=uuid.uuid4(),
    email="ada@example.com",
    name="",
    plan="free",
    email_verified=False,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    updated_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def queued(again_in: float | None = None) -> Queued:
    return Queued(again_in=None if again_in is None else timedelta(seconds=again_in), refusal=None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_asks_for_the_rest_of_the_time(clock: Clock) -> None:
    schedule = WaitSchedule(timedelta(seconds=30), clock)
    assert schedule.ask() == (timedelta(seconds=30), None)
    schedule.pause_s(queued(), is_listening=True)
    clock.now += 10
    assert schedule.ask() == (timedelta(seconds=20), timedelta(seconds=10))
    assert schedule.asked_at == clock.now
    clock.now += 25
    assert schedule.ask() == (timedelta(), timedelta(seconds=35)), "the last try"


def test_a_try_that_repeats_a_lost_one_counts_from_the_first(clock: Clock) -> None:
    """The first try may have reserved: what it got ends a `ttl` after it, not after the second one."""
    schedule = WaitSchedule(timedelta(seconds=30), clock)
    clock.now += 1
    schedule.ask()
    asked_at = clock.now
    clock.now += 4
    schedule.ask()
    assert schedule.asked_at == asked_at
    schedule.pause_s(queued(), is_listening=True)
    schedule.ask()
    assert schedule.asked_at == clock.now


def test_with_notifications_it_only_keeps_its_place(clock: Clock) -> None:
    schedule = WaitSchedule(timedelta(hours=1), clock)
    for _ in range(5):
        assert 4 <= schedule.pause_s(queued(), is_listening=True) <= 5


def test_without_notifications_it_polls_less_and_less_often(clock: Clock) -> None:
    schedule = WaitSchedule(timedelta(hours=1), clock)
    longest = [0.1, 0.2, 0.4, 0.8, 1, 1, 1]
    pauses = [schedule.pause_s(queued(), is_listening=False) for _ in longest]
    assert all(0.8 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True)), pauses


def test_it_asks_when_something_comes_free_by_the_clock(clock: Clock) -> None:
    schedule = WaitSchedule(timedelta(hours=1), clock)
    assert schedule.pause_s(queued(2.5), is_listening=True) == 2.5
    assert 0 < schedule.pause_s(queued(-1), is_listening=True) < 0.1, "a moment that has passed is no endless loop"


def test_it_asks_at_its_deadline(clock: Clock) -> None:
    schedule = WaitSchedule(timedelta(seconds=2), clock)
    assert schedule.pause_s(queued(60), is_listening=True) == 2
    clock.now += 3
    assert schedule.pause_s(queued(60), is_listening=True) == 0


@pytest.mark.parametrize("wait", [5, "5 s", timedelta(seconds=-1), timedelta(hours=25)])
def test_a_wrong_wait_is_refused(wait: Any) -> None:
    with pytest.raises(InvalidInput, match="24 hours") as refused:
        check_options({"wait": wait})
    assert refused.value.field == "wait"


def test_a_guard_of_a_lease_cannot_wait() -> None:
    with pytest.raises(InvalidInput, match="no option wait"):
        check_lease_options({"wait": timedelta(seconds=1)})


class Granting:
    """A backend that grants after a wait."""

    def reserve(self, user: User, _options: Any, wait: WaitSchedule | None = None) -> Reservation:
        assert wait is not None
        wait.asked_at += 1000
        return Reservation(
            id=uuid.UUID(int=1), user_id=user.id, tokens=0, cost=Decimal(), expires_at=None, epoch=1, state="held"
        )

    def extend(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no heartbeat is due")

    def settle(self, *_: Any) -> None: ...


class AwaitedGranting(Granting):
    async def reserve(self, *asked: Any) -> Reservation:  # type: ignore[override]
        return super().reserve(*asked)

    async def settle(self, *_: Any) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize("of", [Guard, AsyncGuard, Slot, AsyncSlot])
def test_slots_live_from_their_grant_on(of: Any) -> None:
    """Not from the beginning of the wait: else a wait that is longer than the ttl would lose them at once."""
    is_async = of in {AsyncGuard, AsyncSlot}
    backend = AwaitedGranting() if is_async else Granting()
    ttl, wait = timedelta(hours=1), timedelta(hours=2)
    held = of(backend, USER, {"slots": 1, "ttl": ttl, "wait": wait}) if of in {Guard, AsyncGuard} else None
    held = of(backend, USER, ttl=ttl, wait=wait) if held is None else held
    before = time.monotonic()

    async def enter() -> None:
        async with held:
            pass

    if is_async:
        asyncio.run(enter())
    else:
        with held:
            pass
    assert before + 1000 + 3600 <= held._liveness._until <= time.monotonic() + 1000 + 3600


# Notifications.


def received(subscriptions: Subscriptions[Event], *notes: tuple[str, str]) -> None:
    state = ListenState(SimpleNamespace(), None)  # type: ignore[arg-type]  # nothing of the configuration is needed
    for channel, payload in notes:
        state.received(Notify(channel, payload, 1))
    subscriptions.received(state)


def subscription(subscriptions: Subscriptions[Event], channel: str, name: str) -> Subscription[Event]:
    made = Subscription(channel, name, Event())
    subscriptions.add(made)
    return made


def test_a_call_is_woken_by_its_own_name() -> None:
    subscriptions: Subscriptions[Event] = Subscriptions()
    one, two = (subscription(subscriptions, "users", name) for name in ("one", "two"))
    received(subscriptions, ("users", "two"), ("others", "one"))
    assert (one.event.is_set(), two.event.is_set()) == (False, True)


def test_a_call_is_woken_when_its_channel_is_heard() -> None:
    subscriptions: Subscriptions[Event] = Subscriptions()
    early = subscription(subscriptions, "a", "1")
    assert subscriptions.changes() == (["a"], [])
    late = subscription(subscriptions, "b", "2")
    subscriptions.changed(["a"], [])
    assert (early.is_listening, early.event.is_set()) == (True, True)
    assert (late.is_listening, late.event.is_set()) == (False, False)
    joining = subscription(subscriptions, "a", "3")
    assert joining.event.is_set(), "a notification may have come before it subscribed"
    assert subscriptions.changes() == (["b"], [])


def test_a_channel_without_calls_is_heard_no_more() -> None:
    subscriptions: Subscriptions[Event] = Subscriptions()
    first, second = (subscription(subscriptions, "a", name) for name in "12")
    subscriptions.changed(["a"], [])
    subscriptions.remove(first)
    assert subscriptions.changes() == ([], [])
    subscriptions.remove(second)
    assert subscriptions.changes() == ([], ["a"])
    subscriptions.changed([], ["a"])
    assert subscriptions.changes() == ([], [])
    assert not subscriptions


def test_a_lost_connection_means_polling_until_the_next() -> None:
    subscriptions: Subscriptions[Event] = Subscriptions()
    call = subscription(subscriptions, "a", "1")
    subscriptions.changed(["a"], [])
    call.event.clear()
    subscriptions.lost()
    assert not call.is_listening
    subscriptions.changed(*subscriptions.changes())
    assert (call.is_listening, call.event.is_set()) == (True, True)
