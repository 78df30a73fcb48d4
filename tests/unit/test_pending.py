"""Settlements that are kept for later: in order, bounded, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
import warnings
from datetime import UTC, datetime

import pytest

from atlas_sdk import User
from atlas_sdk.guards import pending
from atlas_sdk.guards.pending import Ending, Pending, Tasks

USER = User(
    id=uuid.uuid4(),
    email="ada@example.com",
    name="",
    plan="free",
    email_verified=False,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    updated_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def ending(number: int, *, releases: bool = False) -> Ending:
    return Ending(user=USER, reservation_id=uuid.UUID(int=number), releases=releases, tokens=number)


def taken(kept: Pending) -> list[int]:
    return [one.reservation_id.int for one in iter(kept.take, None)]


def test_what_is_kept_is_taken_in_order_settlements_first() -> None:
    kept = Pending()
    for number in (1, 2, 3):
        kept.keep(ending(number, releases=number == 1))
    assert len(kept) == 3
    assert taken(kept) == [2, 3, 1]
    assert len(kept) == 0


def test_what_is_put_back_is_the_next_again() -> None:
    kept = Pending()
    for number in (1, 2):
        kept.keep(ending(number))
    first = kept.take()
    assert first is not None
    kept.put_back(first)
    assert taken(kept) == [1, 2]


def test_of_too_many_the_oldest_is_left_to_its_expiry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pending, "KEPT_MAX", 2)
    kept = Pending()
    kept.keep(ending(7, releases=True))
    with caplog.at_level(logging.WARNING):
        for number in (1, 2, 3):
            kept.keep(ending(number))
    assert f"reservation {uuid.UUID(int=1)} is left to its expiry" in caplog.text
    for number in (8, 9):
        kept.keep(ending(number, releases=True))
    assert taken(kept) == [2, 3, 8, 9], "releases do not push out settlements"


def test_a_client_that_gives_up_says_which(caplog: pytest.LogCaptureFixture) -> None:
    kept = Pending()
    kept.keep(ending(1))
    kept.keep(ending(2, releases=True))
    with caplog.at_level(logging.WARNING):
        kept.give_up()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(uuid.UUID(int=1)) in caplog.text
    assert len(kept) == 0


def test_a_forked_child_has_nothing_to_settle() -> None:
    kept = Pending()
    kept.keep(ending(1))
    kept._lock.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
        child = os.fork()
    if child == 0:
        kept.keep(ending(2))
        os._exit(0 if taken(kept) == [2] else 1)
    assert os.waitpid(child, 0)[1] == 0
    kept._lock.release()
    assert taken(kept) == [1]


def test_tasks_are_waited_for_with_those_that_they_start() -> None:
    async def go() -> list[str]:
        tasks, done = Tasks(), []

        async def second() -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            done.append("second")

        async def first() -> None:
            await asyncio.sleep(0)
            tasks.start(second())
            done.append("first")

        tasks.start(first())
        await tasks.finish(60)
        return list(done)

    assert asyncio.run(go()) == ["first", "second"]


def test_tasks_that_take_too_long_are_cancelled() -> None:
    async def go() -> bool:
        tasks = Tasks()
        endless = tasks.start(asyncio.Event().wait())
        await tasks.finish(0.01)
        return endless.cancelled()

    assert asyncio.run(go())
