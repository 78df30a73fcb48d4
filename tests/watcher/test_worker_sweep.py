"""The sweep finds changes without an event, on the disk and in the database, and measures memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from attrs import evolve
from fakes import Version
from rig import Rig

from atlas_sdk import DatabaseUnreachable, NotFound, Project
from atlas_sdk.files import signature
from watcher.comparison import stale_paths
from watcher.folder import Folder


def test_the_sweep_tells_of_memory_where_it_grew(rig: Rig, app: Project, root: Path) -> None:
    rig.settle(65.0)
    assert rig.atlas.told == [app.user_id]
    rig.settle(120.0)
    assert rig.atlas.told == [app.user_id]
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(1.0)
    assert rig.atlas.told == [app.user_id]
    rig.settle(60.0)
    assert rig.atlas.told == [app.user_id] * 2


def test_memory_is_told_when_the_database_is_back(rig: Rig, app: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(user_id: UUID) -> UUID:
        raise DatabaseUnreachable("no connection")

    with monkeypatch.context() as away:
        away.setattr(rig.atlas, "get", get)
        rig.settle(65.0)
    assert rig.atlas.told == []
    assert not rig.worker.status().database.ok
    rig.settle(10.0)
    assert rig.atlas.told == [app.user_id]


def test_a_user_who_is_gone_stops_no_telling(
    rig: Rig, app: Project, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def get(user_id: UUID) -> UUID:
        raise NotFound("no such user", kind="user", name=str(user_id))

    monkeypatch.setattr(rig.atlas, "get", get)
    rig.settle(65.0)
    assert rig.atlas.told == []
    assert "no such user" in caplog.text
    assert rig.worker.step() > rig.now


def test_the_last_thing_tells_of_memory(rig: Rig, app: Project) -> None:
    rig.drain()
    assert rig.atlas.told == [app.user_id]


def test_the_sweep_finds_what_no_event_told(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").write_text("two")
    (root / "notes.md").write_text("new")
    rig.settle(50.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(15.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.atlas.contents(app, "notes.md") == [b"new"]
    (root / "notes.md").unlink()
    rig.settle(65.0)
    assert rig.atlas.contents(app, "notes.md") == [b"new", None]


def test_an_overflow_scans_everything_at_once(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").write_text("two")
    rig.queue.overflowed()
    rig.settle()
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.worker.status().counters["overflows"] == 1


@pytest.fixture
def versions(rig: Rig, app: Project) -> list[Version]:
    """Return the versions of the stored file, so that a test can change them as another client.

    The file and its folder are so old that the worker relies on what it knows about them.
    """
    os.utime(rig.worker._projects.folders[app.id].root / "CLAUDE.md", (1, 1))
    folder = rig.worker._projects.folders[app.id]
    path, known = "CLAUDE.md", folder.known["CLAUDE.md"]
    folder.known[path] = evolve(known, signature=signature(folder.root, path))
    folder.folders[""] = folder.stamp("")
    assert folder.is_unchanged()
    return rig.atlas.history[app.id, path]


def test_the_sweep_finds_that_another_client_stored_something_else(
    rig: Rig, app: Project, versions: list[Version]
) -> None:
    rig.atlas.append(app, "CLAUDE.md", "auto", hashlib.sha256(b"half").digest(), b"half", versions[0][0].mode)
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"half", b"one"]
    calls = rig.atlas.calls
    rig.settle(200.0)
    assert rig.atlas.calls == calls


def test_the_sweep_finds_that_another_client_stored_a_deletion(rig: Rig, app: Project, versions: list[Version]) -> None:
    rig.atlas.delete(app, "CLAUDE.md", kind="auto")
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None, b"one"]


def test_known_content_that_comes_back_is_compared_at_once(rig: Rig, app: Project, root: Path) -> None:
    """Another client stores a version and puts the file back: the content on the disk is the one the daemon knows."""
    mode = rig.atlas.history[app.id, "CLAUDE.md"][0][0].mode
    rig.settle(3.0)
    rig.atlas.append(app, "CLAUDE.md", "auto", hashlib.sha256(b"half").digest(), b"half", mode)
    (root / "CLAUDE.md").write_text("one")
    rig.event(app, "CLAUDE.md")
    rig.settle(3.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"half", b"one"]


def test_comparison_leaves_out_what_is_newer_or_on_its_way(rig: Rig, app: Project, versions: list[Version]) -> None:
    folder = rig.worker._projects.folders[app.id]
    other = [evolve(versions[0][0], sha256="ab" * 32)]
    began = folder.known["CLAUDE.md"].captured_at
    later = began + timedelta(seconds=1)
    assert list(stale_paths(folder, other, pending=(), began=began)) == []
    assert list(stale_paths(folder, other, pending={"CLAUDE.md"}, began=later)) == []
    assert list(stale_paths(folder, other, pending=(), began=later)) == ["CLAUDE.md"]


def test_fault_in_one_comparison_does_not_stop_the_others(
    rig: Rig, app: Project, versions: list[Version], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.with_name("evil").mkdir()
    evil = rig.atlas.add(root.with_name("evil"))
    rig.settle(3.0)

    def is_broken(folder: Folder, *arguments: object, **options: object) -> Iterator[str]:
        if folder.id == evil.id:
            raise RecursionError
        return stale_paths(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("watcher.worker.stale_paths", is_broken)
    rig.atlas.delete(app, "CLAUDE.md", kind="auto")
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None, b"one"]


def test_the_sweep_waits_for_a_database_that_is_away(rig: Rig, app: Project, versions: list[Version]) -> None:
    rig.atlas.delete(app, "CLAUDE.md", kind="auto")
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(65.0)
    rig.atlas.problem = None
    rig.settle(6.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None, b"one"]


def test_the_sweep_leaves_alone_what_was_never_on_the_disk(rig: Rig, app: Project) -> None:
    rig.atlas.history[app.id, "notes/mine.md"] = []
    rig.atlas.append(app, "notes/mine.md", "scratch", hashlib.sha256(b"x").digest(), b"x", 0o644)
    rig.settle(65.0)
    assert rig.atlas.contents(app, "notes/mine.md") == [b"x"]


def test_the_sweep_keeps_what_was_over_the_limit_of_its_day(rig: Rig, app: Project, versions: list[Version]) -> None:
    (version, _) = versions[0]
    versions[0] = (evolve(version, kept=False), None)
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [None, b"one"]


def test_the_sweep_does_not_ask_for_what_is_over_the_limit_still(
    rig: Rig, app: Project, versions: list[Version], root: Path
) -> None:
    (version, _) = versions[0]
    versions[0] = (evolve(version, kept=False, size=2**40), None)
    calls = rig.atlas.calls
    rig.settle(65.0)
    assert rig.atlas.calls == calls


def test_a_touched_file_is_read_but_not_sent_by_the_sweep(rig: Rig, app: Project, root: Path) -> None:
    calls = rig.atlas.calls
    os.utime(root / "CLAUDE.md", (1, 1))
    rig.settle(65.0)
    assert rig.atlas.calls == calls
