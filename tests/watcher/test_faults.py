"""A fault in one project never touches another, and a folder that was swapped is never read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve
from rig import Rig

from atlas_sdk import Project, Tracking
from atlas_sdk.files import Root, Scan, hold, temporary
from watcher import scan as scanning
from watcher.backend import Backend
from watcher.debounce import ChangeKind
from watcher.folder import Folder


@pytest.fixture
def projects(rig: Rig, tmp_path: Path) -> list[Project]:
    """Return two projects with one stored file each. "evil" is the first in every order."""
    found = []
    for name in ("evil", "good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "CLAUDE.md").write_text("one")
        found.append(rig.atlas.add(tmp_path / name))
    rig.settle()
    assert rig.worker.ready
    return found


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every reading of the settings of the project "evil" raise an unexpected error."""
    real = Tracking.load

    def load(root: Root) -> Tracking:
        if root.path.name == "evil":
            raise RecursionError("maximum recursion depth exceeded")
        return real(root)

    monkeypatch.setattr(Tracking, "load", load)


@pytest.mark.usefixtures("broken")
def test_unknown_fault_in_one_project_is_said_and_the_other_is_captured(
    rig: Rig, projects: list[Project], tmp_path: Path
) -> None:
    evil, good = projects
    (tmp_path / "evil" / ".atlas.toml").write_text("x")
    rig.event(evil, ".atlas.toml")
    (tmp_path / "good" / "CLAUDE.md").write_text("two")
    rig.event(good, "CLAUDE.md")
    rig.settle(1)
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"two"]
    assert rig.status_of(evil).problem == "RecursionError; see the watcher's log"


@pytest.mark.usefixtures("broken")
def test_unknown_fault_at_the_end_loses_no_change_of_another(rig: Rig, projects: list[Project], tmp_path: Path) -> None:
    _, good = projects
    for name in ("evil", "good"):
        (tmp_path / name / "CLAUDE.md").write_text("last")
    rig.drain()
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"last"]


def test_unknown_fault_of_the_sweep_does_not_keep_it_from_the_others(
    rig: Rig, projects: list[Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, good = projects
    real = Folder.is_unchanged

    def is_unchanged(folder: Folder) -> bool:
        if folder.root.name == "evil":
            raise ValueError("embedded null byte")
        return real(folder)

    monkeypatch.setattr(Folder, "is_unchanged", is_unchanged)
    (tmp_path / "good" / "CLAUDE.md").write_text("without an event")
    rig.settle(rig.timing.sweep_s + 1)
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"without an event"]
    (tmp_path / "good" / "CLAUDE.md").write_text("last")
    rig.drain()
    assert rig.atlas.contents(good, "CLAUDE.md")[-1] == b"last"


def test_fault_while_an_event_is_judged_leads_to_a_scan(
    rig: Rig, projects: list[Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, good = projects
    (tmp_path / "good" / "CLAUDE.md").write_text("two")

    def affected_paths(*_: object, **__: object) -> tuple[str, ...]:
        raise RecursionError

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "affected_paths", affected_paths)
        rig.event(good, "CLAUDE.md")
    rig.settle(1)
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"two"]


@pytest.mark.parametrize("when", ["event", "sweep", "drain"])
def test_folder_swapped_for_a_symlink_is_lost_and_not_read(
    rig: Rig, projects: list[Project], tmp_path: Path, when: str
) -> None:
    _, good = projects
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "CLAUDE.md").write_text("of somebody else")
    (tmp_path / "good").rename(tmp_path / "moved")
    (tmp_path / "good").symlink_to(secret)
    if when == "event":
        rig.event(good, "CLAUDE.md")
        rig.settle(5)
    elif when == "sweep":
        rig.settle(rig.timing.sweep_s + rig.timing.replaced_s * 2)
    else:
        rig.drain()
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one"]
    if when != "drain":
        assert "is a symlink to" in (rig.status_of(good).problem or "")
        (tmp_path / "good").unlink()
        (tmp_path / "moved").rename(tmp_path / "good")
        (tmp_path / "good" / "CLAUDE.md").write_text("two")
        rig.settle(5)
        assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"two"]


def test_folder_of_another_owner_is_not_trusted_for_its_names(
    rig: Rig, projects: list[Project], tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes folders of other owners: run the tests as root")
    _, good = projects
    (tmp_path / "good").rename(tmp_path / "moved")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "CLAUDE.md").write_text("of somebody else")
    os.chown(tmp_path / "good", 65534, 65534)
    rig.event(good, "CLAUDE.md")
    rig.settle(rig.timing.replaced_s / 2)
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one"]
    assert "of another owner" in (rig.status_of(good).problem or "")
    rig.settle(rig.timing.replaced_s)
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"of somebody else"]


def test_project_that_was_made_again_by_its_owner_goes_on_at_once(
    rig: Rig, projects: list[Project], tmp_path: Path
) -> None:
    _, good = projects
    (tmp_path / "good").rename(tmp_path / "moved")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "CLAUDE.md").write_text("cloned again")
    rig.event(good, "CLAUDE.md")
    rig.settle(5)
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"cloned again"]


def test_file_is_not_read_from_a_folder_that_took_the_place_since_the_scan(
    rig: Rig, projects: list[Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, good = projects
    scans = []
    real = scanning.scan

    def counted(folder: Folder, root: Root, backend: Backend) -> Iterator[tuple[str, ChangeKind]]:
        scans.append(folder.root)
        return real(folder, root, backend)

    monkeypatch.setattr("watcher.projects.scan", counted)
    (tmp_path / "good").rename(tmp_path / "moved")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "CLAUDE.md").write_text("two")
    rig.event(good, "CLAUDE.md")
    rig.settle(0.06)
    # The look at the file was refused, and asked for a scan. The scan accepts the new folder first.
    rig.settle(5)
    assert scans
    assert rig.atlas.contents(good, "CLAUDE.md") == [b"one", b"two"]


def test_search_that_was_given_up_forgets_and_unwatches_nothing(
    rig: Rig, projects: list[Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, good = projects
    rules = tmp_path / "good" / ".claude" / "rules"
    rules.mkdir(parents=True)
    (rules / "a.md").write_text("rule")
    rig.event(good, ".claude", is_folder=True)
    rig.settle(2)
    watched = set(rig.backend.watched)
    real = Tracking.scan

    def give_up(tracking: Tracking, root: Root) -> Scan:
        found = real(tracking, root)
        return evolve(found, paths=("CLAUDE.md",), directories=("",), complete=False)

    with monkeypatch.context() as patched:
        patched.setattr(Tracking, "scan", give_up)
        rig.queue.mark(good.id, "", ChangeKind.CLOSED)
        rig.settle(2)
    assert set(rig.backend.watched) == watched
    assert rig.atlas.contents(good, ".claude/rules/a.md") == [b"rule"]
    (rules / "a.md").write_text("rule two")
    rig.event(good, ".claude/rules/a.md")
    rig.settle(2)
    assert rig.atlas.contents(good, ".claude/rules/a.md") == [b"rule", b"rule two"]


def test_slow_project_rests_so_that_others_get_their_turn(
    rig: Rig, projects: list[Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil, _ = projects
    scans = []
    real = scanning.scan

    def slow(folder: Folder, root: Root, backend: Backend) -> Iterator[tuple[str, ChangeKind]]:
        if folder.root.name == "evil":
            scans.append(rig.now)
            rig.now += 5
        return real(folder, root, backend)

    monkeypatch.setattr("watcher.projects.scan", slow)
    for _ in range(600):
        rig.queue.mark(evil.id, "", ChangeKind.CLOSED)
        rig.settle(0.1)
    assert len(scans) >= 2
    assert all(later - earlier >= 5 * 5 for earlier, later in pairwise(scans))


def test_leftovers_of_restores_are_removed_when_a_scan_sees_them(
    rig: Rig, projects: list[Project], tmp_path: Path
) -> None:
    _, good = projects
    assert rig.atlas.tidied == []
    (tmp_path / "good" / temporary.temporary_name("CLAUDE.md")).write_text("left")
    rig.queue.mark(good.id, "", ChangeKind.CLOSED)
    rig.settle(2)
    assert rig.atlas.tidied == [good.id]


def test_one_mention_of_the_same_folder_by_two_names_is_one(tmp_path: Path) -> None:
    """The alias of a symlink is the direct path of its target in the project, even if the link takes a detour."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "AGENTS.md").write_text("x")
    (tmp_path / "CLAUDE.md").symlink_to("docs/../docs/AGENTS.md")
    with hold(tmp_path) as root:
        aliases = scanning._aliases(Tracking().scan(root))
    assert aliases == {"docs/AGENTS.md": ("CLAUDE.md",)}
