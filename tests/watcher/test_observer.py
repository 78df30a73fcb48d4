"""The backend for macOS and Windows. Its base, watchdog's Observer, works on Linux too, so the tests run there."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fakes import FakeSink, root_changed

from watcher.backend import WatchedFolder, Watching
from watcher.debounce import ChangeKind
from watcher.observer import Observing


@pytest.fixture
def observing(sink: FakeSink) -> Iterator[Observing]:
    backend = Observing()
    backend.start(sink)
    yield backend
    backend.stop()


def test_writes_renames_and_deletions_are_told_to_every_project_of_a_folder(
    observing: Observing, sink: FakeSink, tmp_path: Path
) -> None:
    places = [WatchedFolder(uuid4(), ""), WatchedFolder(uuid4(), "")]
    assert [observing.watch(place, str(tmp_path)) for place in places] == [Watching.NEW, Watching.NEW]
    assert observing.watch(places[0], str(tmp_path)) is Watching.KEPT
    for name in ("CLAUDE.md", "old.md"):
        (tmp_path / "x").write_text("content")
        (tmp_path / "x").rename(tmp_path / name)
        for place in places[:1]:
            sink.until((place, name, ChangeKind.CLOSED, False))
    (tmp_path / "old.md").unlink()
    sink.until((places[1], "old.md", ChangeKind.VANISHED, False))
    observing.unwatch(places[0])
    (tmp_path / "rules").mkdir()
    sink.until((places[1], "rules", ChangeKind.CHANGED, True))


def test_a_folder_that_was_made_again_is_watched_again(observing: Observing, sink: FakeSink, tmp_path: Path) -> None:
    place, root = WatchedFolder(uuid4(), ""), tmp_path / "app"
    root.mkdir()
    observing.watch(place, str(root))
    root.rmdir()
    sink.until(root_changed(place))
    assert observing.watch(place, str(root)) is Watching.GONE
    root.mkdir()
    assert observing.watch(place, str(root)) is Watching.NEW
    (root / "CLAUDE.md").touch()
    sink.until((place, "CLAUDE.md", ChangeKind.CLOSED, False))
