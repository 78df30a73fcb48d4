"""The backend of macOS and Windows; watchdog's Observer works on Linux too."""

import queue
from uuid import uuid4

import pytest
from patience import PATIENCE_S

from watcher.backend import Place, Watching
from watcher.debounce import ChangeKind
from watcher.observer import Observing


class Heard:
    def __init__(self):
        self.events = queue.SimpleQueue()

    def changed(self, place, name, change, *, is_folder):
        self.events.put((place, name, change, is_folder))

    def root_changed(self, place):
        self.events.put((place, None))

    def overflowed(self):
        self.events.put("overflow")

    def until(self, wanted):
        while self.events.get(timeout=PATIENCE_S) != wanted:
            pass


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def observing(heard):
    backend = Observing()
    backend.start(heard)
    yield backend
    backend.stop()


def test_writes_renames_and_deletions_are_told_to_every_project_of_a_folder(observing, heard, tmp_path):
    places = [Place(uuid4(), ""), Place(uuid4(), "")]
    assert [observing.watch(place, str(tmp_path)) for place in places] == [Watching.NEW, Watching.NEW]
    assert observing.watch(places[0], str(tmp_path)) is Watching.KEPT
    for name in ("CLAUDE.md", "old.md"):
        (tmp_path / "x").write_text("content")
        (tmp_path / "x").rename(tmp_path / name)
        for place in places[:1]:
            heard.until((place, name, ChangeKind.CLOSED, False))
    (tmp_path / "old.md").unlink()
    heard.until((places[1], "old.md", ChangeKind.VANISHED, False))
    observing.unwatch(places[0])
    (tmp_path / "rules").mkdir()
    heard.until((places[1], "rules", ChangeKind.CHANGED, True))


def test_a_folder_that_was_made_again_is_watched_again(observing, heard, tmp_path):
    place, root = Place(uuid4(), ""), tmp_path / "app"
    root.mkdir()
    observing.watch(place, str(root))
    root.rmdir()
    heard.until((place, None))
    assert observing.watch(place, str(root)) is Watching.GONE
    root.mkdir()
    assert observing.watch(place, str(root)) is Watching.NEW
    (root / "CLAUDE.md").touch()
    heard.until((place, "CLAUDE.md", ChangeKind.CLOSED, False))
