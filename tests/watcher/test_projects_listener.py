"""The thread that hears of changes of the list of projects."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

from atlas_sdk import Atlas, DatabaseUnreachable, InvalidInput
from watcher.projects_listener import CHANNEL, ProjectsListener


class Heard:
    """A count of calls that a test can wait for."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __call__(self) -> None:
        self._calls.put(None)

    def wait(self) -> None:
        self._calls.get(timeout=PATIENCE_S)

    def is_silent(self) -> bool:
        return self._calls.empty()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def listener(heard: Heard) -> Iterator[ProjectsListener]:
    found = ProjectsListener(heard, retry_s=0.001)
    yield found
    found.stop()


def ended() -> bool:
    """Wait until no thread of a listener is left."""
    for thread in threading.enumerate():
        if thread.name == "atlas-projects":
            thread.join(PATIENCE_S)
            return not thread.is_alive()
    return True


class Notifications:
    """A listener of the SDK: a test sends the notifications."""

    def __init__(self) -> None:
        self._sent: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def send(self) -> None:
        self._sent.put("")

    def stop(self) -> None:
        self._sent.put(None)

    def __iter__(self) -> Iterator[str]:
        while (found := self._sent.get(timeout=PATIENCE_S)) is not None:
            yield found


class FakeAtlas:
    """A client whose `listen` raises each of these errors first."""

    def __init__(self, *problems: Exception, before: Callable[[], None] = lambda: None) -> None:
        self._problems = list(problems)
        self._before = before
        self.notifications = Notifications()

    @contextmanager
    def listen(self, channel: str) -> Iterator[Notifications]:
        assert channel == CHANNEL
        self._before()
        if self._problems:
            raise self._problems.pop(0)
        yield self.notifications


def test_each_change_of_the_list_is_heard_and_no_other(atlas: Atlas, folder: Path, listener: Any, heard: Heard) -> None:
    listener.begin(atlas)
    # The first call comes when the listener listens.
    heard.wait()
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    heard.wait()
    atlas.projects.update_memory(project)
    atlas.memory.capture(project)
    atlas.projects.touch(project)
    for change in (
        lambda: atlas.projects.archive(project),
        lambda: atlas.projects.activate(project),
        lambda: atlas.projects.move(project, "/srv/moved", force=True),
        lambda: atlas.projects.delete(project),
        lambda: atlas.projects.purge(project),
    ):
        # A capture that notifies would be heard here.
        assert heard.is_silent()
        change()
        heard.wait()
    assert listener.listening
    listener.stop()
    assert ended()
    assert not listener.listening


def test_a_database_that_is_away_is_asked_again(listener: ProjectsListener, heard: Heard) -> None:
    atlas: Any = FakeAtlas(DatabaseUnreachable("away"), DatabaseUnreachable("away"))
    listener.begin(atlas)
    heard.wait()
    atlas.notifications.send()
    heard.wait()
    assert listener.listening


def test_behind_a_pooler_nothing_is_heard(listener: ProjectsListener, heard: Heard) -> None:
    atlas: Any = FakeAtlas(InvalidInput("a pooler", field="dsn"))
    listener.begin(atlas)
    assert ended()
    assert not listener.listening
    assert heard.is_silent()


def test_a_stop_during_the_connection_is_not_lost(listener: ProjectsListener, heard: Heard) -> None:
    atlas: Any = FakeAtlas(before=listener.stop)
    listener.begin(atlas)
    assert ended()
    assert heard.is_silent()
