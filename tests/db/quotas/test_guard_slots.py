"""Guards that hold containers are kept alive as slots are, and say so when they are lost."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from guard_adapter import Both, until, used

from atlas_sdk import Atlas, QuotaExceeded, SlotLost
from atlas_sdk.guards import current_guard

#: Long enough for a heartbeat of a busy machine, short enough to wait for.
SHORT = timedelta(seconds=1.2)


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest, dsn: str) -> Iterator[Both]:
    client = Both(request.param, dsn)
    yield client
    client.close()


def beats_until(both: Both, condition: Any) -> None:
    def holds() -> Any:
        if both.kind == "asyncio":
            both.do(asyncio.sleep(0.01))
        return condition()

    until(holds)


def test_a_guard_keeps_its_containers_for_longer_than_its_ttl(both: Both) -> None:
    user = both.user(containers=1)
    with both.guard(user, slots=1, tokens=10, ttl=SHORT) as g:
        first = both.holds(user)[0].expires_at
        beats_until(both, lambda: datetime.now(UTC) > first + SHORT)
        # The one who asks for the place would clear away what has expired.
        with pytest.raises(QuotaExceeded), both.guard(user, slots=1):
            pytest.fail("it was free")
        g.check()
        assert not g.lost
        g.settle(tokens=3)
    assert used(both, user)[0] == 3


def test_a_guard_whose_heartbeats_do_not_come_through_is_lost(both: Both) -> None:
    user = both.user(containers=1)
    losing = both.losing()
    with both.guard(user, slots=1, ttl=SHORT) as g:
        losing.fail(1000)
        beats_until(both, lambda: g.lost)
        with pytest.raises(SlotLost, match="stop the container") as caught:
            g.check()
        assert caught.value.epoch == g.epoch
        losing._before.clear()
    both.settle_down()
    assert used(both, user)[0] == 0


def test_a_guard_that_somebody_ended_is_lost_at_the_next_heartbeat(both: Both) -> None:
    user = both.user(containers=1)
    with both.guard(user, slots=1, ttl=SHORT) as g:
        both.do(both.quotas.release(user, g.id))
        beats_until(both, lambda: g.lost)
        with both.guard(user, slots=1) as successor, pytest.raises(SlotLost):
            assert successor.epoch > g.epoch
            g.check()
    assert used(both, user)[0] == 0


def test_a_decorated_function_keeps_its_containers(both: Both) -> None:
    user = both.user(containers=1)
    guard = both.quotas.guard(user, slots=1, ttl=SHORT)

    def over(first: datetime) -> bool:
        return datetime.now(UTC) > first + SHORT and both.holds(user)[0].expires_at > first + SHORT

    if both.kind == "blocking":

        @guard
        def run() -> None:
            first = both.holds(user)[0].expires_at
            until(lambda: over(first))
            current_guard().check()

        run()
    else:

        @guard
        async def arun() -> None:
            first = (await both.quotas.reservations(user))[0].expires_at
            while not (await both.quotas.reservations(user))[0].expires_at > first + SHORT:  # noqa: ASYNC110  # it is about the server
                await asyncio.sleep(0.01)
            current_guard().check()

        both.do(arun())
    assert used(both, user)[0] == 0


def test_a_guard_without_containers_has_no_heartbeat(both: Both) -> None:
    user, losing = both.user(), both.losing()
    with both.guard(user, tokens=10, ttl=SHORT) as g:
        (hold,) = both.holds(user)
        beats_until(both, lambda: datetime.now(UTC) > hold.expires_at)
        g.check()
        assert not g.lost
    assert losing.sent == ["quotas.reserve", "quotas.settle"]


def test_nothing_beats_after_the_end(both: Both) -> None:
    user = both.user(containers=3)
    with both.guard(user, slots=1), both.guard(user, slots=2):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "atlas-slot"]
    if both.kind == "asyncio":
        both.do(asyncio.sleep(0))
        assert not [task for task in asyncio.all_tasks(both._loop) if task.get_name() == "atlas-slot"]


def test_a_forked_child_leaves_the_containers_to_its_parent(dsn: str) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("forked-guard@example.com")
        with atlas.quotas.guard(user, slots=1) as g:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
                child = os.fork()
            if child == 0:
                g.__exit__(None, None, None)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert len(atlas.quotas.reservations(user)) == 1


class Driver:
    """Obeys, of each container that it manages, the highest number that came with it."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def obeys(self, container: str, fence: int) -> bool:
        self._highest[container] = max(fence, self._highest.get(container, 0))
        return fence == self._highest[container]


def test_a_driver_obeys_every_valid_holder_and_no_former_one(both: Both, door: Any) -> None:
    user, driver = both.user(containers=2), Driver()
    with both.entered(both.quotas.slot(user)) as first, both.entered(both.quotas.slot(user)) as second:
        assert second.epoch > first.epoch
        assert driver.obeys("web-1", first.epoch)
        assert driver.obeys("web-2", second.epoch)
        assert driver.obeys("web-1", first.epoch), "a later slot of the user is another container's"
        door.expire(first.id)
        with both.entered(both.quotas.slot(user)) as successor:
            assert driver.obeys("web-1", successor.epoch)
            assert not driver.obeys("web-1", first.epoch)
            assert driver.obeys("web-2", second.epoch)
