"""Listeners receive notifications on a connection of their own, survive its loss, and can be stopped."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from client_adapter import Open
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, Atlas, DatabaseUnreachable, InvalidInput, Listener, Notification, NotificationGap

_END_LISTENERS = """
SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'LISTEN%'
"""


def end_listeners(dsn: str) -> None:
    """End every connection that waits for notifications, and wait until it is gone."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_END_LISTENERS)


@pytest.mark.every_server
def test_what_is_sent_is_heard_in_order(open_client: Open, dsn: str) -> None:
    client, sender = open_client(dsn), open_client(dsn)
    with client.listen("builds", "Previews") as notifications:
        for number in range(3):
            sender.notify("builds", f"payload {number} é")
        sender.notify("Previews")
        sender.notify("previews", "another channel: case matters")
        heard = [notifications.get(timeout_s=PATIENCE_S) for _ in range(4)]
        assert notifications.get(timeout_s=0.0) is None
    assert [(note.channel, note.payload) for note in heard] == [
        ("builds", "payload 0 é"),
        ("builds", "payload 1 é"),
        ("builds", "payload 2 é"),
        ("Previews", ""),
    ]
    assert all(isinstance(note, Notification) and note.pid > 0 for note in heard)


def test_a_transaction_sends_when_it_is_committed(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    with client.listen("builds") as notifications:
        with pytest.raises(RuntimeError), client.transaction() as tx:
            tx.notify("builds", "never")
            raise RuntimeError
        with client.transaction() as tx:
            tx.notify("builds", "committed")
            assert notifications.get(timeout_s=0.05) is None
        assert notifications.get(timeout_s=PATIENCE_S).payload == "committed"


def test_what_is_sent_after_entering_is_heard(open_client: Open, dsn: str) -> None:
    """A program that reads the tables inside the `with`, and then listens, misses nothing."""
    client = open_client(dsn)
    with client.listen("builds") as notifications:
        client.notify("builds", "between")
        client.users.list()
        assert notifications.get(timeout_s=PATIENCE_S).payload == "between"


def test_a_lost_connection_is_made_again_and_told_as_a_gap(
    open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_client(dsn)
    with client.listen("builds", "previews") as notifications:
        client.notify("builds", "before")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "before"
        end_listeners(dsn)
        client.notify("builds", "lost")
        gap = notifications.get(timeout_s=PATIENCE_S)
        assert isinstance(gap, NotificationGap)
        assert 0 < gap.seconds < PATIENCE_S
        client.notify("previews", "after")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "after"
    assert sum("lost its connection" in record.getMessage() for record in caplog.records) == 1


def test_what_was_heard_before_a_loss_comes_before_the_gap(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    with client.listen("builds") as notifications:
        client.notify("builds", "first")
        client.notify("builds", "second")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "first"
        end_listeners(dsn)
        assert notifications.get(timeout_s=PATIENCE_S).payload == "second"
        assert isinstance(notifications.get(timeout_s=PATIENCE_S), NotificationGap)


def test_a_server_that_is_away_is_waited_for(dsn: str, migrated: psycopg.Connection[Any]) -> None:
    """The database refuses connections for a while. The time-out of `get` still holds."""
    with Atlas.open(dsn) as client, client.listen("builds") as notifications:
        _allow(dsn, "false")
        migrated.execute(_END_LISTENERS)
        assert notifications.get(timeout_s=0.5) is None
        assert notifications._connection is None
        assert notifications._state._attempts >= 2
        _allow(dsn, "true")
        assert isinstance(notifications.get(timeout_s=PATIENCE_S), NotificationGap)
        client.notify("builds", "after")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "after"


def _allow(dsn: str, allowed: str) -> None:
    name = dsn.partition("?")[0].rsplit("/", 1)[1]
    with psycopg.connect(dsn.replace(f"/{name}?", "/postgres?"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {allowed}")


def test_another_thread_stops_it(dsn: str) -> None:
    with Atlas.open(dsn) as client, client.listen("builds") as notifications, ThreadPoolExecutor(1) as threads:
        heard, first = [], threading.Event()

        def hear() -> None:
            for note in notifications:
                heard.append(note.payload)
                first.set()

        hearing = threads.submit(hear)
        client.notify("builds", "heard")
        assert first.wait(PATIENCE_S)
        notifications.stop()
        hearing.result(PATIENCE_S)
        assert heard == ["heard"]
        assert notifications.get() is None


def test_another_thread_stops_it_on_asyncio(dsn: str) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn) as client, client.listen("builds") as notifications:
            stopper = threading.Timer(0.05, notifications.stop)
            stopper.start()
            async with asyncio.timeout(PATIENCE_S):
                assert [note async for note in notifications] == []
            stopper.join()

    asyncio.run(go())


def test_a_cancelled_wait_loses_nothing(dsn: str) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn) as client, client.listen("builds") as notifications:
            for number in range(20):
                waiting = asyncio.create_task(notifications.get())
                for _ in range(number):
                    await asyncio.sleep(0)
                if number == 10:
                    await client.notify("builds", "kept")
                waiting.cancel()
                (got,) = await asyncio.gather(waiting, return_exceptions=True)
                if isinstance(got, Notification):
                    assert got.payload == "kept"
                    return
            found = await notifications.get(timeout_s=PATIENCE_S)
            assert isinstance(found, Notification)
            assert found.payload == "kept"

    asyncio.run(go())


def test_the_end_of_the_client_ends_it(dsn: str) -> None:
    client = Atlas.open(dsn)
    with client.listen("builds") as notifications, ThreadPoolExecutor(1) as threads:
        heard = threads.submit(list, notifications)
        while not notifications._lock.locked():
            threading.Event().wait(0.001)
        client.close()
        assert heard.result(PATIENCE_S) == []


def test_it_must_be_entered(open_client: Open, dsn: str) -> None:
    listener = open_client(dsn).listen("builds")
    with pytest.raises(InvalidInput, match="enter it first"):
        listener.get(timeout_s=0)
    listener.stop()


@pytest.mark.parametrize("channels", [(), ("",), ("a\0b",), ("c" * 64,), ("é" * 32,)])
def test_channels_are_checked(open_client: Open, dsn: str, channels: tuple[str, ...]) -> None:
    client = open_client(dsn)
    with pytest.raises(InvalidInput):
        client.listen(*channels)
    if channels:
        with pytest.raises(InvalidInput):
            client.notify(channels[0])


def test_a_payload_has_a_limit(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    name = "c" * 63
    with client.listen(name) as notifications:
        client.notify(name, "x" * 7999)
        assert len(notifications.get(timeout_s=PATIENCE_S).payload) == 7999
    for payload in ("x" * 8000, "é" * 4000, "a\0b"):
        with pytest.raises(InvalidInput, match="payload"):
            client.notify(name, payload)


def test_names_are_no_sql(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    name = 'x"; DROP TABLE users; --'
    with client.listen(name) as notifications:
        client.notify(name, "'); DROP TABLE users; --")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "'); DROP TABLE users; --"
    assert client.users.list() == []


def test_one_users_client_hears_and_reaches_its_own_channels(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    ada, bob = (client.users.create(f"{name}@example.com") for name in ("ada", "bob"))
    with client.as_user(ada).listen("builds") as own, client.listen("builds") as platform:
        client.as_user(bob).notify("builds", "of bob")
        client.as_user(bob).notify(f"{ada.id}:x"[:26], "of bob, in disguise")
        client.notify("builds", "of the platform")
        client.as_user(ada).notify("builds", "of ada")
        found = own.get(timeout_s=20)
        assert (found.channel, found.payload) == ("builds", "of ada")
        assert platform.get(timeout_s=20).payload == "of the platform"
        assert own.get(timeout_s=0.1) is None
        assert platform.get(timeout_s=0.1) is None
        # The platform can send to every user's channels.
        client.notify(f"{ada.id}:builds", "for ada")
        assert own.get(timeout_s=20).payload == "for ada"
    for wrong in ("", "x" * 27, "a\0b"):
        with pytest.raises(InvalidInput, match="26 bytes"):
            client.as_user(ada).notify(wrong)
        with pytest.raises(InvalidInput, match="26 bytes"):
            client.as_user(ada).listen(wrong)


def test_a_forked_child_needs_its_own(dsn: str) -> None:
    with Atlas.open(dsn) as client, client.listen("builds") as notifications:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                notifications.get(timeout_s=0)
            except InvalidInput:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        client.notify("builds", "parent")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "parent"


def test_a_server_that_is_down_is_told_at_once(dsn: str) -> None:
    with Atlas.open(dsn) as client:
        client._view._config.dsn = "postgresql://ada@127.0.0.1:1/atlas"
        with pytest.raises(DatabaseUnreachable), client.listen("builds"):
            raise AssertionError("nobody answers there")


def test_both_listeners_have_the_same_methods() -> None:
    from atlas_sdk import AsyncListener

    def public(kind: Any) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Listener) == public(AsyncListener)
