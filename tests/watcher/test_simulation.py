"""Whatever programs, kills and faults do, in any order: what was on the disk is in the store, in order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
import simulation
from attrs import evolve
from rig import Rig
from simulated import Store, World

import watcher.capture
import watcher.delivery
from atlas_sdk import Project
from atlas_sdk.journal import Journal, Record
from atlas_sdk.ops import delivery
from watcher.capture import Look, Reader
from watcher.debounce import ChangeKind
from watcher.event_queue import EventQueue
from watcher.folder import Folder

#: ATLAS_SIM_SEEDS=5000 runs that many; ATLAS_SIM_SEED=17 replays one.
_ONE = os.environ.get("ATLAS_SIM_SEED")
SEEDS = [int(_ONE)] if _ONE else range(int(os.environ.get("ATLAS_SIM_SEEDS", "80")))


@pytest.fixture
def memory() -> Iterator[Path]:
    """Yield a folder in memory, where there is one: the journal's fdatasync costs nothing there."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def one_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the daemon use the store and the wall clock of the simulation that runs."""
    worlds: list[World] = []
    begin, open_store = World.__init__, Store.__init__

    def begun(self: World, seed: int) -> None:
        begin(self, seed)
        worlds[:] = [self]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return worlds[0].wall() if tz is UTC else datetime.now(tz)

    def opened(self: Store, *given: object) -> None:
        open_store(self, *given)  # type: ignore[arg-type]
        monkeypatch.setattr(delivery, "append_many", self.append_many)

    monkeypatch.setattr(World, "__init__", begun)
    monkeypatch.setattr(Store, "__init__", opened)
    for module in (watcher.capture, watcher.delivery):
        monkeypatch.setattr(module, "datetime", Clock)


@pytest.mark.usefixtures("one_world")
def test_everything_that_was_on_the_disk_is_stored_in_order(memory: Path) -> None:
    failed = [report for seed in SEEDS if (report := simulation.in_a_folder(seed, memory))]
    assert not failed, (
        f"{len(failed)} of {len(SEEDS)} seeds failed; the first:\n{failed[0]}\nall of them:\n{_short(failed)}"
    )


def _short(reports: list[str]) -> str:
    return "\n".join(f"{lines[0]}: {lines[-1]}" for lines in (report.splitlines() for report in reports))


def test_a_file_below_a_folder_that_became_a_link_is_not_called_saved(rig: Rig, app: Project, root: Path) -> None:
    rules = root / ".claude" / "rules"
    rules.mkdir(parents=True)
    (rules / "a.md").write_text("old")
    rig.queue.overflowed()
    rig.settle(1.0)
    rules.rename(root / "shared")
    rules.symlink_to("../shared")
    (root / "shared" / "a.md").write_text("new, and nobody looks at it")
    rig.queue.overflowed()
    rig.settle(1.0)
    assert rig.atlas.contents(app, ".claude/rules/a.md") == [b"old"]
    (file,) = (one for one in rig.status_of(app).files if one.path == ".claude/rules/a.md")
    assert file.state == "unreadable"
    assert "symlink to a folder" in (file.why or "")


def _overflows_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventQueue, "take_overflows", lambda _: 0)


def _vanished_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Reader.look

    def once(self: Reader, folder: Folder, path: str, *, change: ChangeKind) -> Look:
        found = look(self, folder, path, change=change)
        return evolve(found, again=None) if found.again is ChangeKind.VANISHED else found

    monkeypatch.setattr(Reader, "look", once)


def _known_before_append(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Reader.look

    def known(self: Reader, folder: Folder, path: str, *, change: ChangeKind) -> Look:
        found = look(self, folder, path, change=change)
        if found.head is not None:
            folder.take(found.head)
        return found

    monkeypatch.setattr(Reader, "look", known)


def _delivered_before_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = Journal.pending

    def marked(self: Journal, *given: Any, **named: Any) -> list[Record]:
        found = pending(self, *given, **named)
        Journal.delivered(self, [record.id for record in found])
        return found

    monkeypatch.setattr(Journal, "pending", marked)


@pytest.mark.usefixtures("one_world")
@pytest.mark.parametrize(
    ("sabotage", "first"),
    [(_overflows_ignored, 0), (_vanished_ignored, 74), (_known_before_append, 64), (_delivered_before_stored, 1)],
)
def test_simulation_finds_a_fault(
    memory: Path, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None], first: int
) -> None:
    sabotage(monkeypatch)
    # The search begins with a seed that fails today, and goes on if the simulation makes other choices one day.
    found = next(report for seed in (first, *range(200)) if (report := simulation.in_a_folder(seed, memory)))
    assert found.startswith("ATLAS_SIM_SEED=")
