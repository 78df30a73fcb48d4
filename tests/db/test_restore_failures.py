"""Restores that fail in the middle: nothing is lost, and the record says what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_sdk import ContentMissing, FileProblem, Project, RestoreRefused
from atlas_sdk.ops import restores

FILES = {"AGENTS.md": b"agents one\n", "CLAUDE.md": b"claude one\n", "notes.md": b"notes one\n"}


def checkpointed(client: Any, folder: Path) -> Project:
    """Make a project with a checkpoint "one", and change every file on disk afterwards."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    project = client.projects.create(client.users.local(), path=folder)
    client.memory.capture(project)
    client.memory.checkpoint(project, "one")
    for name in FILES:
        (folder / name).write_bytes(name.encode() + b" two\n")
    return project


def newest(client: Any, project: Project) -> dict[str, bytes]:
    return {version.path: client.memory.content(version) for version in client.memory.files(project)}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def fail_at(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    real = restores.replace_file

    def replace(root: Path, name: str, *args: Any, **kwargs: Any) -> None:
        if name == path:
            raise FileProblem(f"{name} cannot be written: the disk is full", path=name)
        real(root, name, *args, **kwargs)

    monkeypatch.setattr(restores, "replace_file", replace)


def test_a_restore_that_wrote_nothing_is_as_if_it_had_not_been(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = checkpointed(client, folder)
    client.memory.restore(project, "one", paths=["notes.md"])
    with monkeypatch.context() as patched:
        fail_at(patched, "AGENTS.md")
        with pytest.raises(FileProblem, match="disk is full"):
            client.memory.restore(project, "one")
    assert newest(client, project) == on_disk(folder)
    client.memory.undo(project)
    assert (folder / "notes.md").read_bytes() == b"notes.md two\n"
    assert newest(client, project) == on_disk(folder)


def test_a_restore_that_failed_half_way_says_so_and_can_be_undone(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = checkpointed(client, folder)
    before = on_disk(folder)
    with monkeypatch.context() as patched:
        fail_at(patched, "CLAUDE.md")
        with pytest.raises(RestoreRefused, match="1 of 3 files were written.*`memory.undo`") as refused:
            client.memory.restore(project, "one")
    assert refused.value.followed_by == "undo"
    assert on_disk(folder) == before | {"AGENTS.md": FILES["AGENTS.md"]}
    assert newest(client, project) == on_disk(folder)
    client.memory.undo(project)
    assert on_disk(folder) == before


def test_an_undo_that_failed_half_way_goes_on_when_repeated(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = checkpointed(client, folder)
    before = on_disk(folder)
    client.memory.restore(project, "one")
    with monkeypatch.context() as patched:
        fail_at(patched, "CLAUDE.md")
        with pytest.raises(RestoreRefused, match="`memory.undo` goes on"):
            client.memory.undo(project)
    client.memory.undo(project)
    assert on_disk(folder) == before == newest(client, project)


def test_content_is_kept_once_the_limit_is_raised(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    (folder / ".atlas.toml").write_text("[track]\nlimit_bytes = 100\n")
    big = b"the only copy\n" * 99
    (folder / "CLAUDE.md").write_bytes(big)
    with pytest.raises(ContentMissing):
        client.memory.content(client.memory.snapshot(project, "CLAUDE.md"))
    assert [v.kept for v in client.memory.files(project) if v.path == "CLAUDE.md"] == [False]
    with pytest.raises(RestoreRefused, match="over the size limit"):
        client.memory.restore(project, "one")
    (folder / ".atlas.toml").write_text("[track]\nlimit_bytes = 100000\n")
    taken = {version.path for version in client.memory.capture(project).taken}
    assert "CLAUDE.md" in taken
    assert client.memory.read(project, "CLAUDE.md") == big
    client.memory.restore(project, "one")
    client.memory.undo(project)
    assert (folder / "CLAUDE.md").read_bytes() == big


def test_damaged_bytes_on_record_are_healed_before_the_file_is_overwritten(client: Any, dsn: str, folder: Path) -> None:
    project = checkpointed(client, folder)
    precious = b"".join(b"line %d\n" % n for n in range(300))
    (folder / "CLAUDE.md").write_bytes(precious)
    client.memory.capture(project)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE memory_blobs SET data = '\\x0199' WHERE size > 1000")
    assert not client.memory.verify(client.users.local()).ok
    client.memory.restore(project, "one")
    assert (folder / "CLAUDE.md").read_bytes() == FILES["CLAUDE.md"]
    assert client.memory.verify(client.users.local()).ok
    client.memory.undo(project)
    assert (folder / "CLAUDE.md").read_bytes() == precious


def test_a_symlink_that_leads_nowhere_is_not_written_through(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").symlink_to("docs/elsewhere.md")
    (folder / "docs").mkdir()
    with pytest.raises(RestoreRefused, match="leads nowhere"):
        client.memory.restore(project, "one")
    assert list((folder / "docs").iterdir()) == []


def test_history_deleted_by_force_stops_no_writer(client: Any, dsn: str, folder: Path) -> None:
    project = checkpointed(client, folder)
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE memory_snapshots")
    taken = client.memory.capture(project).taken
    assert {version.path for version in taken} == set(FILES)
    assert newest(client, project) == on_disk(folder)


def test_undo_takes_the_last_restore_by_the_servers_clock(client: Any, dsn: str, folder: Path) -> None:
    project = checkpointed(client, folder)
    before = on_disk(folder)
    client.memory.restore(project, "one", paths=["AGENTS.md"])
    client.memory.restore(project, "one", paths=["CLAUDE.md"])
    with psycopg.connect(dsn) as connection:
        # Give the second restore an id as if its client's clock were behind, so that the id sorts first.
        connection.execute(
            "UPDATE restores SET id = '00000000-0000-7000-8000-000000000001' "
            "WHERE created_at = (SELECT max(created_at) FROM restores)"
        )
    client.memory.undo(project)
    assert (folder / "CLAUDE.md").read_bytes() == before["CLAUDE.md"]
    assert (folder / "AGENTS.md").read_bytes() == FILES["AGENTS.md"]
