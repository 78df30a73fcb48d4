"""The contract with watchdog's lower layer. That layer is not public, so tests check everything that we use of it."""

import errno
import inspect
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

if sys.platform != "linux":
    pytest.skip("inotify is Linux's", allow_module_level=True)

from daemons import until, without_privileges
from fakes import OVERFLOW, FakeSink, root_changed
from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchCallback

from watcher import inotify as backend_module
from watcher.backend import WatchedFolder, Watching
from watcher.debounce import ChangeKind
from watcher.inotify import Inotify


@pytest.fixture
def inotify(sink: FakeSink) -> Iterator[Inotify]:
    backend = Inotify()
    backend.start(sink)
    yield backend
    sink.gate.set()
    backend.stop()
    assert not backend._fd.is_alive()


@pytest.fixture
def place() -> WatchedFolder:
    return WatchedFolder(uuid4(), "")


def test_the_protocol_has_the_names_that_we_implement() -> None:
    names = {name for name in vars(WatchCallback) if name.startswith("on_")}
    assert names == {"on_event", "on_watch_deleted", "on_queue_overflow"}
    assert names <= set(dir(Inotify))
    assert {"add_callback", "remove_callbacks", "start", "stop", "join"} <= set(dir(InotifyFD))
    for name, parameters in {
        "add_callback": ["self", "path", "mask", "callback", "id_"],
        "remove_callbacks": ["self", "callbacks"],
    }.items():
        assert list(inspect.signature(getattr(InotifyFD, name)).parameters) == parameters
    for name, parameters in {"on_event": ["event"], "on_watch_deleted": ["wd"], "on_queue_overflow": []}.items():
        assert list(inspect.signature(getattr(WatchCallback, name)).parameters) == ["self", *parameters]
    assert {"wd", "mask", "name"} <= set(InotifyEvent.__annotations__)


@pytest.mark.parametrize(
    "name",
    [
        *("MODIFY", "ATTRIB", "CLOSE_WRITE", "MOVED_FROM", "MOVED_TO", "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF"),
        *("UNMOUNT", "ONLYDIR", "DONT_FOLLOW", "EXCL_UNLINK", "ISDIR"),
    ],
)
def test_our_masks_are_those_of_watchdog(name: str) -> None:
    expected = getattr(InotifyConstants, f"IN_{name}", None) or {"DONT_FOLLOW": 0x0200_0000}[name]
    assert getattr(backend_module, f"_{name}") == expected


def test_a_refused_watch_has_the_number_that_we_expect(inotify: Inotify, tmp_path: Path) -> None:
    """`add_callback` returns -1 for a folder that may not be read; any other error of the kernel raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix="atlas-unreadable-"))
    try:
        folder.chmod(0o000)
        with without_privileges():
            wd = inotify._fd.add_callback(os.fsencode(folder), Mask(backend_module._MASK), inotify, CallbackId(99))
        assert wd == backend_module._NO_ACCESS
        with pytest.raises(FileNotFoundError):
            inotify._fd.add_callback(os.fsencode(tmp_path / "x"), Mask(backend_module._MASK), inotify, CallbackId(98))
    finally:
        folder.rmdir()


def test_every_way_to_save_has_its_kind_of_change(
    inotify: Inotify, sink: FakeSink, place: WatchedFolder, tmp_path: Path
) -> None:
    assert inotify.watch(place, str(tmp_path)) is Watching.NEW
    file = tmp_path / "CLAUDE.md"
    file.write_text("one")
    sink.until((place, "CLAUDE.md", ChangeKind.CLOSED, False))
    file.rename(tmp_path / "old.md")
    sink.until((place, "CLAUDE.md", ChangeKind.VANISHED, False))
    sink.until((place, "old.md", ChangeKind.CLOSED, False))
    (tmp_path / "old.md").unlink()
    sink.until((place, "old.md", ChangeKind.VANISHED, False))
    (tmp_path / "rules").mkdir()
    sink.until((place, "rules", ChangeKind.CHANGED, True))


def test_watching_again_is_kept_and_notices_another_folder(
    inotify: Inotify, sink: FakeSink, place: WatchedFolder, tmp_path: Path
) -> None:
    root = tmp_path / "app"
    root.mkdir()
    assert inotify.watch(place, str(root)) is Watching.NEW
    assert inotify.watch(place, str(root)) is Watching.KEPT
    root.rename(tmp_path / "away")
    sink.until(root_changed(place))
    root.mkdir()
    assert inotify.watch(place, str(root)) is Watching.NEW
    (tmp_path / "away" / "stale.md").touch()
    (root / "fresh.md").touch()
    assert "stale.md" not in {name for _, name, _, _ in sink.until((place, "fresh.md", ChangeKind.CLOSED, False))}


def test_a_removed_folder_is_told_and_can_be_watched_again(
    inotify: Inotify, sink: FakeSink, place: WatchedFolder, tmp_path: Path
) -> None:
    root = tmp_path / "app"
    root.mkdir()
    inotify.watch(place, str(root))
    root.rmdir()
    sink.until(root_changed(place))
    assert inotify.watch(place, str(root)) is Watching.GONE
    root.mkdir()
    assert inotify.watch(place, str(root)) is Watching.NEW


def test_two_projects_in_one_folder_share_a_watch(
    inotify: Inotify, sink: FakeSink, place: WatchedFolder, tmp_path: Path
) -> None:
    other = WatchedFolder(uuid4(), "")
    inotify.watch(place, str(tmp_path))
    assert inotify.watch(other, str(tmp_path)) is Watching.NEW
    (tmp_path / "a.md").touch()
    sink.until((place, "a.md", ChangeKind.CLOSED, False))
    sink.until((other, "a.md", ChangeKind.CLOSED, False))
    inotify.unwatch(place)
    (tmp_path / "b.md").touch()
    seen = sink.until((other, "b.md", ChangeKind.CLOSED, False))
    assert {name for at, name, _, _ in seen if at == place} <= {"a.md"}


def test_a_folder_that_may_not_be_read_is_refused(inotify: Inotify, sink: FakeSink, place: WatchedFolder) -> None:
    parent = Path(tempfile.mkdtemp(prefix="atlas-unreadable-"))
    folder = parent / "secret"
    try:
        parent.chmod(0o755)
        folder.mkdir(mode=0o000)
        with without_privileges():
            assert inotify.watch(place, str(folder)) is Watching.REFUSED
        assert not inotify._fd._watch_for_wd
        if os.geteuid() == 0:
            assert inotify.watch(place, str(folder)) is Watching.NEW
    finally:
        shutil.rmtree(parent)


def test_the_limit_on_watches_is_told_once(
    inotify: Inotify,
    place: WatchedFolder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(inotify._fd, "add_callback", full)
    assert inotify.watch(place, str(tmp_path)) is Watching.REFUSED
    assert inotify.watch(WatchedFolder(place.project, "scratch"), str(tmp_path)) is Watching.REFUSED
    assert caplog.text.count("fs.inotify.max_user_watches") == 1


def test_an_overflow_of_the_kernels_queue_is_told(
    inotify: Inotify, sink: FakeSink, place: WatchedFolder, tmp_path: Path
) -> None:
    inotify.watch(place, str(tmp_path))
    names = [tmp_path / "a.md", tmp_path / "b.md"]
    for name in names:
        name.touch()
    sink.gate.clear()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    # Take turns, because the kernel merges equal successive events. Make 5000 more events than fit into the queue,
    # because those that the backend has read already are no longer in it.
    for number in range(most + 5000):
        os.utime(names[number % 2])
    sink.gate.set()
    sink.until(OVERFLOW)


def test_ten_projects_need_one_thread(sink: FakeSink, tmp_path: Path) -> None:
    before = threading.active_count()
    backend = Inotify()
    backend.start(sink)
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        backend.watch(WatchedFolder(uuid4(), ""), str(folder))
    assert threading.active_count() == before + 1
    backend.stop()
    until(lambda: threading.active_count() == before, "the thread ends")
