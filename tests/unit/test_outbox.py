"""Settlements that are kept for later: in order, bounded in number, and separate for each process."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest

from atlas_sdk import DatabaseUnreachable, InvalidInput, NotFound, QuotaExceeded, StorageFull, TransactionConflict, User
from atlas_sdk.errors import TimedOut
from atlas_sdk.guards import outbox
from atlas_sdk.guards.database_backend import Tasks
from atlas_sdk.guards.outbox import Outbox, PendingSettlement, may_have_reserved

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


def settlement(number: int, **more: Any) -> PendingSettlement:
    return PendingSettlement(user=USER, reservation_id=uuid.UUID(int=number), tokens=number, **more)


def flushed(kept: Outbox, *answers: Any, **how: Any) -> list[int]:
    """Write the kept settlements; return the numbers of those that were tried, in order.

    The plans get these answers in turn. Later plans succeed.
    """
    told, tried = list(answers), []
    script = kept.flush(**how)
    try:
        next(script)
        while True:
            (pending,) = (each for each in kept._kept if each.in_flight)
            tried.append(pending.reservation_id.int)
            answer = told.pop(0) if told else None
            if isinstance(answer, Exception):
                script.throw(answer)
            else:
                script.send(answer)
    except StopIteration:
        return tried


def test_what_is_kept_is_written_in_order_settlements_first() -> None:
    kept = Outbox(Clock())
    for number in (1, 2, 3):
        kept.add(settlement(number, releases=number == 1))
    assert len(kept) == 3
    assert flushed(kept) == [2, 3, 1]
    assert len(kept) == 0


def test_what_the_database_is_not_there_for_keeps_its_place_and_stops_the_others() -> None:
    kept = Outbox(Clock())
    for number in (1, 2):
        kept.add(settlement(number))
    assert flushed(kept, DatabaseUnreachable("gone")) == [1]
    assert flushed(kept) == [1, 2]


def test_what_the_database_refuses_makes_room_for_the_others() -> None:
    kept = Outbox(Clock())
    for number in (1, 2, 3):
        kept.add(settlement(number))
    assert flushed(kept, StorageFull("full"), NotFound("?", kind="reservation", name="2")) == [1, 2, 3]
    assert flushed(kept) == [1]


def test_in_the_background_a_settlement_is_tried_ten_times_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    kept = Outbox(clock)
    kept.add(settlement(1))
    pauses = []
    with caplog.at_level(logging.WARNING):
        while kept:
            assert flushed(kept, StorageFull("full"), due_only=True) == [1]
            assert flushed(kept, due_only=True) == []
            pauses.append(kept.next_due_s())
            clock.now += pauses[-1] or 0
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, None]
    assert "is left to its expiry" in caplog.text


def test_who_asks_for_it_now_is_always_served() -> None:
    kept = Outbox(Clock())
    kept.add(settlement(1))
    for _ in range(30):
        assert flushed(kept, DatabaseUnreachable("gone")) == [1]
    assert flushed(kept) == [1]
    assert not kept


def test_one_that_is_being_written_is_not_written_by_another_and_not_taken_for_lost() -> None:
    kept = Outbox(Clock())
    kept.add(settlement(1, frees=True))
    script = kept.flush()
    next(script)
    assert flushed(kept) == []
    assert kept.frees
    script.close()
    assert flushed(kept) == [1], "an interruption leaves it"


def test_a_flush_may_be_of_a_few() -> None:
    kept = Outbox(Clock())
    for number in (1, 2, 3):
        kept.add(settlement(number))
    assert flushed(kept, most=2) == [1, 2]


def test_of_too_many_the_oldest_is_left_to_its_expiry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "KEPT_MAX", 2)
    kept = Outbox(Clock())
    kept.add(settlement(7, releases=True))
    with caplog.at_level(logging.WARNING):
        for number in (1, 2, 3):
            kept.add(settlement(number))
    assert f"reservation {uuid.UUID(int=1)} is left to its expiry" in caplog.text
    for number in (8, 9):
        kept.add(settlement(number, releases=True))
    assert flushed(kept) == [2, 3, 8, 9], "releases do not push out settlements"


def test_a_client_that_gives_up_says_which(caplog: pytest.LogCaptureFixture) -> None:
    kept = Outbox(Clock())
    kept.add(settlement(1))
    kept.add(settlement(2, releases=True))
    with caplog.at_level(logging.WARNING):
        kept.abandon()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(uuid.UUID(int=1)) in caplog.text
    assert len(kept) == 0


def test_a_forked_child_has_nothing_to_settle() -> None:
    kept = Outbox(Clock())
    kept.add(settlement(1))
    with kept._lock:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
            child = os.fork()
        if child == 0:
            kept.add(settlement(2))
            os._exit(0 if flushed(kept) == [2] else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert flushed(kept) == [1]


@pytest.mark.parametrize(
    ("problem", "tries", "may"),
    [
        (QuotaExceeded(dimension="tokens", asked=1, remaining=0), 2, False),
        (DatabaseUnreachable("gone"), 1, True),
        (TimedOut("late", limit="statement_timeout"), 1, True),
        (KeyboardInterrupt(), 1, True),
        (TransactionConflict("busy"), 1, False),
        (TransactionConflict("busy"), 2, True),
        (InvalidInput("expired", field="reservation_id"), 2, True),
        (InvalidInput("wrong", field="tokens"), 1, False),
    ],
)
def test_only_an_answer_proves_that_nothing_was_reserved(problem: BaseException, tries: int, may: object) -> None:
    assert may_have_reserved(problem, tries=tries) is may


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
