"""Guards of cancelled tasks. At no moment does a cancellation leak a reservation or charge anything twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from guard_adapter import locked_row, waiting
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, Atlas, User
from atlas_sdk.guards import AsyncGuard

#: More steps than the suspensions of entering and leaving a guard, with those of the driver and its pool.
STEPS = 40


class CancelledAt:
    """An awaitable that awaits a coroutine and cancels the running task at one of its suspensions."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._at = at
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        step: Callable[[], Any] = lambda: next(inner)  # noqa: E731  # the variable changes below
        while True:
            try:
                waited_for = step()
            except StopIteration as stop:
                return stop.value
            if self.suspensions == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            self.suspensions += 1
            try:
                yield waited_for
            except BaseException as exc:  # noqa: BLE001  # passed on to the coroutine
                step = lambda exc=exc: inner.throw(exc)  # noqa: E731
            else:
                step = lambda: next(inner)  # noqa: E731


async def new_user(atlas: AsyncAtlas, name: str) -> User:
    user = await atlas.users.create(f"{name}@example.com")
    await atlas.quotas.set_limits(user, tokens=100_000, requests_per_hour=None)
    return user


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # waits for another process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def cancelled_task(work: Awaitable[Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run an awaitable in a task; check at the end that the task was cancelled."""
    task: asyncio.Task[Any] = asyncio.ensure_future(work)  # type: ignore[assignment]
    yield task
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(PATIENCE_S):
            await task


def books(dsn: str, user: User) -> int:
    """Check that nothing is held and that the counters match the ledger; return the charged tokens."""
    with Atlas.open(dsn) as atlas:
        assert atlas.quotas.verify(user).balanced
        usage = atlas.quotas.usage(user)
        assert (usage.tokens_held, atlas.quotas.reservations(user)) == (0, [])
        return usage.tokens_used


def test_a_cancellation_at_any_suspension_leaves_the_books_balanced(dsn: str) -> None:
    charged: dict[User, tuple[bool, AsyncGuard]] = {}

    async def call(guard: AsyncGuard, user: User) -> None:
        async with guard as g:
            charged[user] = (True, guard)
            await asyncio.sleep(0)
            g.settle(tokens=30)

    async def go() -> int:
        async with AsyncAtlas.open(dsn) as atlas:
            for at in range(STEPS):
                user = await new_user(atlas, f"at-{at}")
                guard = atlas.quotas.guard(user, tokens=400)
                charged[user] = (False, guard)
                stepped = CancelledAt(call(guard, user), at)
                task = asyncio.ensure_future(stepped)
                await asyncio.wait([task])
                if stepped.suspensions <= at:
                    assert not task.cancelled()
                    return at
                assert task.cancelled(), f"the cancellation at suspension {at} was swallowed"
        pytest.fail(f"a guard takes more than {STEPS} suspensions")

    # There is at least one suspension in entering, in the body and in leaving.
    assert asyncio.run(go()) >= 3
    for user, (entered, guard) in charged.items():
        used = books(dsn, user)
        # In the body no usage was reported yet, so the whole reservation is charged.
        expected = {400, 30} if entered else {0}
        assert used in expected, f"{used} tokens, entered: {entered}, {guard.settlement}"


@pytest.mark.parametrize("key", [None, "order-1"])
def test_a_cancellation_at_any_moment_leaves_the_books_balanced(dsn: str, key: str | None) -> None:
    """The event loop turns some times before the cancellation, so that it falls into each step of the statement."""

    async def call(guard: AsyncGuard) -> None:
        async with guard as g:
            g.settle(tokens=30)

    async def go() -> dict[User, bool]:
        cancelled = {}
        async with AsyncAtlas.open(dsn) as atlas:
            for turns in range(60):
                user = await new_user(atlas, f"turn-{turns}-{key}")
                task = asyncio.ensure_future(call(atlas.quotas.guard(user, tokens=400, idempotency_key=key)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                cancelled[user] = task.cancelled()
        return cancelled

    ended = asyncio.run(go())
    assert True in ended.values()
    for user, was_cancelled in ended.items():
        used = held_or_used(dsn, user) if key else books(dsn, user)
        assert used in {0, 30, 400} if key else used in {0, 30}
        assert was_cancelled or used == 30


def held_or_used(dsn: str, user: User) -> int:
    """Check that the counters match the ledger; return the charged and reserved tokens."""
    with Atlas.open(dsn) as atlas:
        assert atlas.quotas.verify(user).balanced
        usage = atlas.quotas.usage(user)
        return usage.tokens_used + usage.tokens_held


def test_cancelled_while_it_waits_for_the_lock_a_guard_reserves_nothing(dsn: str) -> None:
    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await new_user(atlas, "locked-enter")
            with locked_row(dsn, user):
                async with cancelled_task(atlas.quotas.guard(user, tokens=400).__aenter__()) as task:
                    await until(lambda: waiting(dsn))
                    task.cancel()
                # The task ended although the lock is still held, because a cancellation does not wait for the lock.
            return user

    assert books(dsn, asyncio.run(go())) == 0


def test_cancelled_twice_while_it_waits_for_the_lock_a_guard_reserves_nothing(dsn: str) -> None:
    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await new_user(atlas, "locked-twice")
            with locked_row(dsn, user):
                async with cancelled_task(atlas.quotas.guard(user, tokens=400).__aenter__()) as task:
                    await until(lambda: waiting(dsn))
                    task.cancel()
                    await asyncio.sleep(0)
                    task.cancel()
            return user

    assert books(dsn, asyncio.run(go())) == 0


def test_a_guard_that_was_granted_in_the_moment_of_its_cancellation_is_given_back(dsn: str) -> None:
    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await new_user(atlas, "just-granted")
            guard = atlas.quotas.guard(user, tokens=400, idempotency_key="k")
            task = asyncio.ensure_future(guard.__aenter__())
            # The statement runs in another task. Cancel when that task is done and this one has not yet been resumed.
            while not (running := atlas.quotas._backend._tasks._running):  # noqa: ASYNC110  # one turn at a time
                await asyncio.sleep(0)
            (reserving,) = running
            reserving.add_done_callback(lambda _: task.cancel())
            await asyncio.wait([task])
            assert task.cancelled()
            assert not reserving.cancelled()
            return user

    assert books(dsn, asyncio.run(go())) == 0


def test_what_an_earlier_try_of_the_key_holds_survives_a_cancellation(dsn: str) -> None:
    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await new_user(atlas, "earlier-try")
            # An earlier attempt has entered its guard and never left it.
            await atlas.quotas.guard(user, tokens=400, idempotency_key="k").__aenter__()
            for turns in range(30):
                task = asyncio.ensure_future(
                    atlas.quotas.guard(user, tokens=400, idempotency_key="k").__aenter__(),
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            await atlas.quotas._backend._tasks.finish(PATIENCE_S)
            assert [hold.tokens for hold in await atlas.quotas.reservations(user)] == [400]
            async with atlas.quotas.guard(user, tokens=400, idempotency_key="k") as g:
                assert g.repeated
                g.settle(tokens=1)
            return user

    assert books(dsn, asyncio.run(go())) == 1


def test_cancelled_in_its_body_a_guard_charges_what_progressed(dsn: str) -> None:
    async def call(atlas: AsyncAtlas, user: User, streaming: asyncio.Event) -> None:
        async with atlas.quotas.guard(user, tokens=400) as g:
            g.progress(tokens=120)
            streaming.set()
            await asyncio.Event().wait()

    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user, streaming = await new_user(atlas, "body"), asyncio.Event()
            async with cancelled_task(call(atlas, user, streaming)) as task:
                await streaming.wait()
                task.cancel()
            # The task has waited for its settlement, so the client's `close` has nothing to do.
            assert await atlas.quotas.reservations(user) == []
            return user

    assert books(dsn, asyncio.run(go())) == 120


def test_a_timeout_around_a_guard_is_a_timeout(dsn: str) -> None:
    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await new_user(atlas, "timeout")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), atlas.quotas.guard(user, tokens=400) as g:
                    g.settle(tokens=7)
                    await asyncio.Event().wait()
            return user

    assert books(dsn, asyncio.run(go())) == 7


def test_cancelled_while_it_is_left_a_guard_settles_in_the_background(dsn: str) -> None:
    guards: list[AsyncGuard] = []

    async def call(atlas: AsyncAtlas, user: User) -> None:
        async with atlas.quotas.guard(user, tokens=400, cost="0.5") as g:
            guards.append(g)
            g.settle(tokens=30, cost="0.1")
            await asyncio.to_thread(locked.wait, PATIENCE_S)

    locked = threading.Event()

    async def go() -> User:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await new_user(atlas, "locked-exit")
            async with cancelled_task(call(atlas, user)) as task:
                await until(lambda: guards)
                with locked_row(dsn, user):
                    locked.set()
                    await until(lambda: waiting(dsn))
                    task.cancel()
                    await asyncio.wait([task], timeout=PATIENCE_S)
                    assert task.cancelled(), "a cancellation does not wait for the lock"
            # The client's `close` waits for the settlement.
        return user

    user = asyncio.run(go())
    assert books(dsn, user) == 30
    with Atlas.open(dsn) as atlas:
        assert atlas.quotas.usage(user).cost_used == Decimal("0.1")


def test_many_tasks_share_a_client(dsn: str) -> None:
    async def call(atlas: AsyncAtlas, user: User, number: int) -> None:
        async with atlas.quotas.guard(user, tokens=100) as g:
            await asyncio.sleep(0)
            g.settle(tokens=number)

    async def go() -> User:
        async with AsyncAtlas.open(dsn, pool_max=4) as atlas:
            user = await new_user(atlas, "many")
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(call(atlas, user, number))
            return user

    assert books(dsn, asyncio.run(go())) == sum(range(40))
