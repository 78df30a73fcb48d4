"""Checkpoints: names for the exact versions of all files at one moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from patience import PATIENCE_S

from atlas_sdk import AlreadyExists, Atlas, InvalidInput, Project


@pytest.fixture(scope="module")
def shared(atlas_home: Path) -> Iterator[Atlas]:
    """Yield a client that tests share if they only need their own tenant."""
    with Atlas.open(home=atlas_home) as client:
        yield client


def new_project(client: Any, folder: Path) -> Project:
    return client.projects.create(client.users.create(f"{uuid4().hex}@example.com"), path=folder)


def contents(client: Any, project: Project, name: str) -> dict[str, bytes]:
    return {version.path: client.memory.content(version) for version in client.memory.resolve(project, name).versions}


def test_a_checkpoint_names_the_newest_version_of_every_file(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    client.memory.capture(project)
    # This content was not captured, so it cannot be in the checkpoint.
    (folder / "CLAUDE.md").write_bytes(b"not captured")
    made = client.memory.checkpoint(project, "before", note="a reason")
    assert (made.name, made.kind, made.note, made.files, made.size) == ("before", "named", "a reason", 2, 26)
    kept = contents(client, project, "before")
    for n in range(3):
        client.memory.snapshot(project, "CLAUDE.md", b"%d" % n)
    client.memory.delete(project, "notes.md")
    assert (
        contents(client, project, "before") == kept == {"CLAUDE.md": b"# Rules\n\nBe kind.\n", "notes.md": b"- first\n"}
    )
    assert [(event.type, event.meta["checkpoint"]) for event in events(client, project, 1)] == [
        ("checkpoint.created", "before")
    ]


def events(client: Any, project: Project, limit: int) -> list[Any]:
    return client.events.recent(client.users.get(project.user_id), limit=limit)


def test_a_name_is_unique_in_its_project(client: Any, folder: Path, tmp_path: Path) -> None:
    project = new_project(client, folder)
    client.memory.capture(project)
    client.memory.checkpoint(project, "v1")
    client.memory.snapshot(project, "CLAUDE.md", b"later")
    with pytest.raises(AlreadyExists, match=r"^app has a checkpoint 'v1' already$") as caught:
        client.memory.checkpoint(project, "v1", note="again")
    assert (caught.value.kind, caught.value.name) == ("checkpoint", "v1")
    assert [(made.name, made.note, made.files) for made in client.memory.checkpoints(project)] == [("v1", None, 2)]
    assert contents(client, project, "v1")["CLAUDE.md"] != b"later"
    assert len(events(client, project, 50)) == 3
    client.memory.checkpoint(project, "V1")
    assert client.memory.checkpoint(new_project(client, tmp_path / "other"), "v1").files == 0


GOOD = [
    "a",
    "v1.0-rc.1+build",
    "mit Leerzeichen",
    "日本語",
    "😀",
    "a/b\\c",
    "CLAUDE.md@x",
    "x" * 200,
    "'\"%s%(x)s;--",
    "Latest",
]
BAD = ["", " ", " a", "a ", "a\tb", "a\nb", "a\0b", "x" * 201, "\u202eevil", "caf\udce9", "latest", "@{1h}", "@{"]


def test_good_names(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    shared.memory.snapshot(project, "CLAUDE.md")
    for name in GOOD:
        assert shared.memory.checkpoint(project, name).name == name
    for name in GOOD:
        assert [version.checkpoint for version in shared.memory.resolve(project, name).versions] == [name]
    assert [made.name for made in shared.memory.checkpoints(project)] == GOOD[::-1]


@pytest.mark.parametrize("name", BAD)
def test_bad_names(shared: Atlas, folder: Path, name: str) -> None:
    project = new_project(shared, folder)
    with pytest.raises(InvalidInput) as caught:
        shared.memory.checkpoint(project, name)
    assert caught.value.field == "name"
    assert "\n" not in str(caught.value)
    assert shared.memory.checkpoints(project) == []


@pytest.mark.parametrize("note", ["a\0b", "caf\udce9"])
def test_a_note_that_no_database_can_hold_is_refused(shared: Atlas, folder: Path, note: str) -> None:
    with pytest.raises(InvalidInput):
        shared.memory.checkpoint(new_project(shared, folder), "a", note=note)


def test_an_empty_project_has_an_empty_checkpoint(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    made = client.memory.checkpoint(project, "start")
    assert (made.files, made.size) == (0, 0)
    assert client.memory.resolve(project, "start").versions == ()
    client.memory.capture(project)
    client.memory.restore(project, "start", delete=True)
    assert list(folder.iterdir()) == []
    assert client.memory.checkpoints(project)[0].files == 2


def test_a_deleted_file_is_not_in_it(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    shared.memory.capture(project)
    shared.memory.delete(project, "notes.md")
    made = shared.memory.checkpoint(project, "without notes")
    assert made.files == 1
    assert list(contents(shared, project, "without notes")) == ["CLAUDE.md"]
    shared.memory.snapshot(project, "notes.md", b"back")
    assert shared.memory.checkpoint(project, "with notes").files == 2
    assert list(contents(shared, project, "without notes")) == ["CLAUDE.md"]


def test_the_list_is_newest_first_and_of_one_project(shared: Atlas, folder: Path, tmp_path: Path) -> None:
    project = new_project(shared, folder)
    other = new_project(shared, tmp_path / "other")
    for n in range(12):
        shared.memory.snapshot(project, "CLAUDE.md", b"x" * (n + 1))
        shared.memory.checkpoint(project, f"c{n}")
        shared.memory.checkpoint(other, f"o{n}")
    made = shared.memory.checkpoints(project)
    assert [one.name for one in made] == [f"c{n}" for n in range(11, -1, -1)]
    assert [(one.files, one.size) for one in made] == [(1, n) for n in range(12, 0, -1)]


def test_pages_of_a_history_with_checkpoints_leave_nothing_out(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    for n in range(3):
        shared.memory.snapshot(project, "CLAUDE.md", b"%d" % n)
        shared.memory.checkpoint(project, f"c{n}")
    whole = shared.memory.history(project, "CLAUDE.md")
    assert len(whole) == 6
    pages: list[Any] = []
    while page := shared.memory.history(project, "CLAUDE.md", limit=1, before=pages[-1] if pages else None):
        pages += page
    assert pages == whole


def test_mode_link_and_context_are_in_it(shared: Atlas, folder: Path) -> None:
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").symlink_to("notes.md")
    (folder / "notes.md").chmod(0o600)
    project = new_project(shared, folder)
    version = shared.memory.snapshot(project, "CLAUDE.md", context={"run": 1})
    shared.memory.checkpoint(project, "a")
    (named,) = shared.memory.resolve(project, "a").versions
    for field in ("path", "seq", "sha256", "size", "mode", "link", "context", "attribution"):
        assert getattr(named, field) == getattr(version, field), field
    assert (named.kind, named.link, named.mode) == ("checkpoint", "notes.md", 0o600)


def test_no_checkpoint_shows_two_files_out_of_step(dsn: str, folder: Path) -> None:
    """A writer changes both files in one transaction, while another client makes checkpoints."""
    with Atlas.open(dsn) as writer, Atlas.open(dsn) as observer:
        project = new_project(writer, folder)
        enough = threading.Event()
        wrote = threading.Event()
        written: list[int] = []

        def write() -> None:
            n = 0
            while not enough.is_set():
                n += 1
                with writer.transaction() as step:
                    for path in ("CLAUDE.md", "notes.md") if n % 2 else ("notes.md", "CLAUDE.md"):
                        step.memory.snapshot(project, path, b"step %d" % n)
                written.append(n)
                wrote.set()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert wrote.wait(PATIENCE_S)
            seen = set()
            for n in range(40):
                observer.memory.checkpoint(project, f"c{n}")
                found = contents(observer, project, f"c{n}")
                assert found["CLAUDE.md"] == found["notes.md"]
                seen.add(found["CLAUDE.md"])
        finally:
            enough.set()
            thread.join()
        # With fewer there would have been no race.
        assert len(seen) > 5
        assert len(written) > 5


def test_maintenance_never_removes_one(atlas: Atlas, folder: Path) -> None:
    project = new_project(atlas, folder)
    for n in range(5):
        for path in ("CLAUDE.md", "notes.md"):
            atlas.memory.snapshot(project, path, b"%s %d" % (path.encode(), n), kind="auto")
        atlas.memory.checkpoint(project, f"c{n}")
    kept = {f"c{n}": contents(atlas, project, f"c{n}") for n in range(5)}
    with psycopg.connect(atlas.url) as connection:
        for table in ("memory_snapshots", "checkpoints"):
            connection.execute(
                f"UPDATE {table} SET created_at = NOW() - INTERVAL '99 days' WHERE project_id = %s", [project.id]
            )
        gone = connection.execute(
            "DELETE FROM memory_snapshots WHERE kind = 'auto' AND created_at < NOW() - INTERVAL '30 days'"
        )
        assert gone.rowcount == 8
    assert {name: contents(atlas, project, name) for name in kept} == kept
    assert [made.files for made in atlas.memory.checkpoints(project)] == [2] * 5
    assert kept["c2"] == {"CLAUDE.md": b"CLAUDE.md 2", "notes.md": b"notes.md 2"}
