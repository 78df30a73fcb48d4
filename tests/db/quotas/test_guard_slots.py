"""Guards with containers have heartbeats as slots do, and report when their slot is lost."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from guard_adapter import QuotaClient, until, used

from atlas_sdk import Atlas, QuotaExceeded, SlotLost
from atlas_sdk.guards import current_guard

#: A `ttl` that is long enough for a heartbeat on a busy machine, and short enough to wait for.
SHORT = timedelta(seconds=1.2)


def beats_until(client: QuotaClient, condition: Any) -> None:
    def holds() -> Any:
        if client.kind == "asyncio":
            client.do(asyncio.sleep(0.01))
        return condition()

    until(holds)


def test_a_guard_keeps_its_containers_for_longer_than_its_ttl(client: QuotaClient) -> None:
    user = client.user(containers=1)
    with client.guard(user, slots=1, tokens=10, ttl=SHORT) as g:
        first = client.holds(user)[0].expires_at
        beats_until(client, lambda: datetime.now(UTC) > first + SHORT)
        # If the reservation had expired, this request would remove it and get its place.
        with pytest.raises(QuotaExceeded), client.guard(user, slots=1):
            pytest.fail("it was free")
        g.check()
        assert not g.lost
        g.settle(tokens=3)
    assert used(client, user)[0] == 3


def test_a_guard_whose_heartbeats_do_not_come_through_is_lost(client: QuotaClient) -> None:
    user = client.user(containers=1)
    losing = client.losing()
    with client.guard(user, slots=1, ttl=SHORT) as g:
        losing.fail(1000)
        beats_until(client, lambda: g.lost)
        with pytest.raises(SlotLost, match="stop the container") as caught:
            g.check()
        assert caught.value.epoch == g.epoch
        losing._before.clear()
    client.settle_down()
    assert used(client, user)[0] == 0


def test_a_guard_that_somebody_ended_is_lost_at_the_next_heartbeat(client: QuotaClient) -> None:
    user = client.user(containers=1)
    with client.guard(user, slots=1, ttl=SHORT) as g:
        client.quotas.release(user, g.id)
        beats_until(client, lambda: g.lost)
        with client.guard(user, slots=1) as successor, pytest.raises(SlotLost):
            assert successor.epoch > g.epoch
            g.check()
    assert used(client, user)[0] == 0


def test_a_decorated_function_keeps_its_containers(client: QuotaClient) -> None:
    user = client.user(containers=1)
    guard = client.quotas.guard(user, slots=1, ttl=SHORT)

    def over(first: datetime) -> bool:
        return datetime.now(UTC) > first + SHORT and client.holds(user)[0].expires_at > first + SHORT

    if client.kind == "blocking":

        @guard
        def run() -> None:
            first = client.holds(user)[0].expires_at
            until(lambda: over(first))
            current_guard().check()

        run()
    else:

        @guard
        async def arun() -> None:
            holds = client.atlas.quotas.reservations
            first = (await holds(user))[0].expires_at
            while not (await holds(user))[0].expires_at > first + SHORT:  # noqa: ASYNC110  # waits for the server
                await asyncio.sleep(0.01)
            current_guard().check()

        client.do(arun())
    assert used(client, user)[0] == 0


def test_a_guard_without_containers_has_no_heartbeat(client: QuotaClient) -> None:
    user, losing = client.user(), client.losing()
    with client.guard(user, tokens=10, ttl=SHORT) as g:
        (hold,) = client.holds(user)
        beats_until(client, lambda: datetime.now(UTC) > hold.expires_at)
        g.check()
        assert not g.lost
    assert losing.sent == ["quotas.reserve", "quotas.settle"]


def test_nothing_beats_after_the_end(client: QuotaClient) -> None:
    user = client.user(containers=3)
    with client.guard(user, slots=1), client.guard(user, slots=2):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "atlas-slot"]
    if client.kind == "asyncio":
        client.do(asyncio.sleep(0))
        assert not [task for task in asyncio.all_tasks(client.loop) if task.get_name() == "atlas-slot"]


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
    """A driver that obeys, for each container, only the highest fencing number that it has seen."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def obeys(self, container: str, fence: int) -> bool:
        self._highest[container] = max(fence, self._highest.get(container, 0))
        return fence == self._highest[container]


def test_a_driver_obeys_every_valid_holder_and_no_former_one(client: QuotaClient, quota_sql: Any) -> None:
    user, driver = client.user(containers=2), Driver()
    with client.entered(client.quotas.slot(user)) as first, client.entered(client.quotas.slot(user)) as second:
        assert second.epoch > first.epoch
        assert driver.obeys("web-1", first.epoch)
        assert driver.obeys("web-2", second.epoch)
        assert driver.obeys("web-1", first.epoch), "a later slot of the user is another container's"
        quota_sql.expire(first.id)
        with client.entered(client.quotas.slot(user)) as successor:
            assert driver.obeys("web-1", successor.epoch)
            assert not driver.obeys("web-1", first.epoch)
            assert driver.obeys("web-2", second.epoch)
