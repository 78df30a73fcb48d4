"""Slots: as many containers as the limit allows, each with its own fencing number. A dead holder keeps none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import programs
import pytest
from guard_adapter import QuotaClient, locked_row, terminate, until, used, waiting
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, Atlas, DatabaseUnreachable, InvalidInput, QuotaExceeded, SlotLost
from atlas_sdk.guards import AsyncSlot, Slot

#: A `ttl` that is long enough for a heartbeat on a busy machine, and short enough to wait for.
SHORT = timedelta(seconds=1.2)


def beats_until(client: QuotaClient, condition: Any) -> None:
    """Wait for a condition. Heartbeats of asyncio only run while their event loop runs."""

    def holds() -> Any:
        if client.kind == "asyncio":
            client.do(asyncio.sleep(0.01))
        return condition()

    until(holds)


def slots_held(client: QuotaClient, user: Any) -> int:
    return client.usage_of(user).slots_held  # type: ignore[no-any-return]


def test_a_slot_is_held_while_it_is_entered(client: QuotaClient) -> None:
    user = client.user(containers=1, requests_per_hour=5)
    with client.entered(client.quotas.slot(user, holder="web-1", meta={"image": "i"})) as slot:
        (hold,) = client.holds(user)
        assert (hold.id, hold.slots, hold.epoch, hold.holder) == (slot.id, 1, slot.epoch, "web-1")
        assert hold.meta == {"image": "i"}
        assert not slot.lost
        slot.check()
    assert slots_held(client, user) == 0
    assert used(client, user) == (0, 0)
    assert client.usage_of(user).requests_last_hour == 0


def test_a_full_house_says_who_is_in_it(client: QuotaClient) -> None:
    user = client.user(containers=2)
    with (
        client.entered(client.quotas.slot(user, holder="web-1")),
        client.entered(client.quotas.slot(user)),
        pytest.raises(QuotaExceeded) as caught,
        client.entered(client.quotas.slot(user)),
    ):
        pytest.fail("a third of two")
    assert caught.value.dimension == "containers"
    assert caught.value.http_status == 429
    assert "web-1" in caught.value.holders
    assert any(holder.endswith(f":{os.getpid()}") for holder in caught.value.holders)
    assert slots_held(client, user) == 0


def test_fencing_numbers_rise(client: QuotaClient) -> None:
    user = client.user()
    epochs = []
    for _ in range(3):
        with client.entered(client.quotas.slot(user)) as slot:
            epochs.append(slot.epoch)
    with client.entered(client.quotas.slot(user)) as first, client.entered(client.quotas.slot(user)) as second:
        epochs += [first.epoch, second.epoch]
    assert epochs == sorted(set(epochs))


def test_a_heartbeat_keeps_a_slot_for_longer_than_its_ttl(client: QuotaClient) -> None:
    user = client.user(containers=1)
    with client.entered(client.quotas.slot(user, ttl=SHORT)) as slot:
        first = client.holds(user)[0].expires_at
        beats_until(client, lambda: datetime.now(UTC) > first + SHORT)
        slot.check()
        # If the slot had expired, this request would remove it and get its place.
        with pytest.raises(QuotaExceeded), client.entered(client.quotas.slot(user)):
            pytest.fail("it was free")
        slot.check()
    assert slots_held(client, user) == 0


def test_a_heartbeat_that_fails_once_loses_nothing(client: QuotaClient) -> None:
    user = client.user(containers=1)
    losing = client.losing()
    with client.entered(client.quotas.slot(user, ttl=SHORT)) as slot:
        first = client.holds(user)[0].expires_at
        losing.fail(2)
        beats_until(client, lambda: datetime.now(UTC) > first + SHORT)
        slot.check()
    assert not losing._before


def test_a_slot_whose_heartbeats_do_not_come_through_is_lost(client: QuotaClient) -> None:
    user = client.user(containers=1)
    losing = client.losing()
    with client.entered(client.quotas.slot(user, ttl=SHORT)) as slot:
        losing.fail(1000)
        beats_until(client, lambda: slot.lost)
        with pytest.raises(SlotLost, match="stop the container") as caught:
            slot.check()
        assert caught.value.epoch == slot.epoch
        losing._before.clear()
    client.settle_down()
    assert slots_held(client, user) == 0


def test_a_slot_that_somebody_ended_is_lost_at_the_next_heartbeat(client: QuotaClient) -> None:
    user = client.user(containers=1)
    with client.entered(client.quotas.slot(user, ttl=timedelta(seconds=3))) as slot:
        client.quotas.release(user, slot.id)
        began = datetime.now(UTC)
        beats_until(client, lambda: slot.lost)
        assert datetime.now(UTC) - began < timedelta(seconds=3), "before its time was over"
        with client.entered(client.quotas.slot(user)) as next_one:
            assert next_one.epoch > slot.epoch
            with pytest.raises(SlotLost):
                slot.check()
    assert slots_held(client, user) == 0


def test_the_end_of_a_lost_slot_leaves_its_successor_alone(client: QuotaClient, quota_sql: Any) -> None:
    user = client.user(containers=1)
    with ExitStack() as later:
        with client.entered(client.quotas.slot(user)) as slot:
            quota_sql.expire(slot.id)
            successor = later.enter_context(client.entered(client.quotas.slot(user)))
            assert successor.epoch > slot.epoch
        assert [hold.id for hold in client.holds(user)] == [successor.id]
        successor.check()


@pytest.mark.parametrize("kind", [Slot, AsyncSlot])
def test_our_own_clock_ends_a_slot_from_before_its_request(client: QuotaClient, kind: type) -> None:
    if (kind is AsyncSlot) != (client.kind == "asyncio"):
        return
    times = iter([100.0])
    now = [100.0]

    def clock() -> float:
        # By this clock, the request takes 20 s. For the heartbeat it stands still, so that no heartbeat is due.
        return next(times, now[0]) if threading.current_thread() is threading.main_thread() else 100.0

    user = client.user()
    now[0] = 120.0
    with client.entered(kind(client.quotas._backend, user, ttl=timedelta(seconds=60), clock=clock)) as slot:
        now[0] = 159.9
        assert not slot.lost
        now[0] = 160.0
        assert slot.lost
        now[0] = 100.0
        assert slot.lost, "what is lost stays lost"


def test_an_exception_gives_the_place_back_and_is_passed_on(client: QuotaClient) -> None:
    user = client.user(containers=1)
    problem = RuntimeError("the container is gone")
    with pytest.raises(RuntimeError) as caught, client.entered(client.quotas.slot(user)):
        raise problem
    assert caught.value is problem
    assert slots_held(client, user) == 0


def test_a_slot_is_for_one_container(client: QuotaClient) -> None:
    user = client.user()
    slot = client.quotas.slot(user)
    for use in (lambda: slot.id, lambda: slot.epoch, lambda: slot.lost, slot.check):
        with pytest.raises(InvalidInput, match="enter the slot first"):
            use()
    with client.entered(slot), pytest.raises(InvalidInput, match="used already"), client.entered(slot):
        pytest.fail("entered twice")
    with pytest.raises(InvalidInput, match="used already"), client.entered(slot):
        pytest.fail("entered twice")
    assert slots_held(client, user) == 0


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(hours=25)])
def test_times_that_are_none_are_refused(client: QuotaClient, ttl: timedelta) -> None:
    with pytest.raises(InvalidInput) as caught, client.entered(client.quotas.slot(client.user(), ttl=ttl)):
        pytest.fail("it was entered")
    assert caught.value.field == "ttl"


def test_without_a_database_there_is_no_slot(client: QuotaClient) -> None:
    user = client.user(containers=1)
    losing = client.losing()
    losing.lose(2)
    with pytest.raises(DatabaseUnreachable), client.entered(client.quotas.slot(user)):
        pytest.fail("it was entered")
    client.settle_down()
    assert slots_held(client, user) == 0


def test_a_broken_connection_does_not_end_a_slot(client: QuotaClient, dsn: str) -> None:
    user = client.user(containers=1)
    with client.entered(client.quotas.slot(user, ttl=SHORT)) as slot:
        first = client.holds(user)[0].expires_at
        terminate(dsn)
        beats_until(client, lambda: datetime.now(UTC) > first + SHORT)
        slot.check()
    assert slots_held(client, user) == 0


def test_a_place_that_cannot_be_given_back_is_given_back_later(client: QuotaClient) -> None:
    user = client.user(containers=1)
    losing = client.losing()
    with client.entered(client.quotas.slot(user)):
        losing.fail(2)
    assert slots_held(client, user) == 1
    client.settle_down()
    assert slots_held(client, user) == 0


def test_the_dead_keep_no_place(dsn: str) -> None:
    code = f"""
import sys
from datetime import timedelta
from atlas_sdk import Atlas
with Atlas.open(sys.argv[1]) as atlas:
    user = atlas.users.by_email("dead@example.com")
    with atlas.quotas.slot(user, ttl=timedelta(seconds={SHORT.total_seconds()}), holder="dead"):
        print("entered", flush=True)
        sys.stdin.read()
"""
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("dead@example.com")
        atlas.quotas.set_limits(user, containers=1)
        with programs.Popen(
            [sys.executable, "-c", code, dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "entered\n"
            with pytest.raises(QuotaExceeded) as caught, atlas.quotas.slot(user):
                pytest.fail("it was free")
            assert caught.value.holders == ("dead",)
            (dead,) = atlas.quotas.reservations(user)
            process.send_signal(signal.SIGKILL)
            process.wait()

        def enter() -> int | None:
            try:
                with atlas.quotas.slot(user) as slot:
                    return slot.epoch
            except QuotaExceeded:
                return None

        epochs: list[int] = []
        until(lambda: epochs.append(epoch) or True if (epoch := enter()) is not None else False)
        assert epochs[0] > dead.epoch
        assert atlas.quotas.verify(user).balanced


def test_a_forked_child_leaves_the_slot_to_its_parent(dsn: str) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("forked@example.com")
        with atlas.quotas.slot(user) as slot:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
                child = os.fork()
            if child == 0:
                slot.__exit__(None, None, None)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert len(atlas.quotas.reservations(user)) == 1


def test_threads_never_have_more_than_the_limit(dsn: str) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("slots@example.com")
        atlas.quotas.set_limits(user, containers=3)
        tried, answers = threading.Barrier(8, timeout=PATIENCE_S), []

        def run(_: int) -> None:
            try:
                with atlas.quotas.slot(user):
                    answers.append("entered")
                    # Leave only after all callers have tried.
                    tried.wait()
            except QuotaExceeded:
                answers.append("refused")
                tried.wait()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(run, range(8)))
        assert sorted(answers) == ["entered"] * 3 + ["refused"] * 5
        assert atlas.quotas.usage(user).slots_held == 0
        assert atlas.quotas.verify(user).balanced


@pytest.mark.parametrize("moment", ["enter", "body", "exit"])
def test_a_cancelled_task_gives_its_place_back(dsn: str, moment: str) -> None:
    async def run(atlas: AsyncAtlas, user: Any, entered: asyncio.Event, leave: asyncio.Event) -> None:
        async with atlas.quotas.slot(user):
            entered.set()
            await leave.wait()

    async def go() -> Any:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.create(f"{moment}@example.com")
            entered, leave = asyncio.Event(), asyncio.Event()
            if moment != "enter":
                task = asyncio.ensure_future(run(atlas, user, entered, leave))
                await entered.wait()
            if moment == "body":
                task.cancel()
            else:
                with locked_row(dsn, user):
                    if moment == "enter":
                        task = asyncio.ensure_future(run(atlas, user, entered, leave))
                    leave.set()
                    async with asyncio.timeout(PATIENCE_S):
                        while not await asyncio.to_thread(waiting, dsn):  # noqa: ASYNC110  # waits for the server
                            await asyncio.sleep(0.01)
                    task.cancel()
                    await asyncio.wait([task], timeout=PATIENCE_S)
                    assert task.cancelled()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not [other for other in asyncio.all_tasks() if other.get_name() == "atlas-slot"]
        return user

    user = asyncio.run(go())
    with Atlas.open(dsn) as atlas:
        assert atlas.quotas.usage(user).slots_held == 0
        assert atlas.quotas.verify(user).balanced
