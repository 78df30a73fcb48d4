"""Versions of memory files, through both clients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_sdk import (
    Atlas,
    ContentMissing,
    FileProblem,
    IntegrityFailure,
    InvalidInput,
    NotFound,
    OutsideProject,
    Project,
)
from atlas_sdk.ops import append


def new_project(client: Any, folder: Path, email: str = "ada@example.com") -> Project:
    user = client.users.by_email(email) or client.users.create(email, name="Ada")
    return client.projects.create(user, path=folder)


def test_unchanged_content_is_no_version(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    first = client.memory.snapshot(project, "CLAUDE.md", b"one\n")
    assert (first.seq, first.kind, first.size) == (1, "claude_md", 4)
    assert client.memory.snapshot(project, "CLAUDE.md", b"one\n") is None
    assert client.memory.snapshot(project, "CLAUDE.md", b"two\n").seq == 2
    assert client.memory.snapshot(project, "CLAUDE.md", b"one\n").seq == 3
    assert [version.seq for version in client.memory.history(project, "CLAUDE.md")] == [3, 2, 1]


def test_unchanged_content_needs_no_statement(embedded: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    atlas = embedded
    project = atlas.projects.create(atlas.users.local(), path=folder)
    atlas.memory.snapshot(project, "CLAUDE.md", b"one\n")
    atlas._view._config.query_log = True
    with caplog.at_level("DEBUG", "atlas_sdk.queries"):
        assert atlas.memory.snapshot(project, "CLAUDE.md", b"one\n") is None
        assert caplog.records == []
        atlas.memory.snapshot(project, "CLAUDE.md", b"two\n")
    # The whole put is one statement.
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["memory.put"]


@pytest.mark.parametrize("by", ["home", "dsn"])
def test_another_clients_version_is_seen_at_once(
    by: str, embedded: Any, atlas: Any, atlas_home: Path, dsn: str, folder: Path
) -> None:
    """Two clients write in turn at once, which makes three versions, with shared marks of one machine and without."""
    ours = embedded if by == "home" else atlas
    project = ours.projects.create(ours.users.local(), path=folder)
    ours.memory.snapshot(project, "CLAUDE.md", b"ours\n")
    with Atlas.open(home=atlas_home) if by == "home" else Atlas.open(dsn) as other:
        other.memory.snapshot(project, "CLAUDE.md", b"theirs\n")
        assert ours.memory.snapshot(project, "CLAUDE.md", b"ours\n").seq == 3
        other.memory.delete(project, "CLAUDE.md")
        assert ours.memory.snapshot(project, "CLAUDE.md", b"ours\n").seq == 5
        with other.transaction() as tx:
            tx.memory.snapshot(project, "CLAUDE.md", b"theirs\n")
        assert ours.memory.snapshot(project, "CLAUDE.md", b"ours\n").seq == 7


def test_every_version_reads_back(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    contents = [b"line\n" * n + bytes([n]) for n in range(40)]
    made = [client.memory.snapshot(project, "CLAUDE.md", content) for content in contents]
    for version, content in zip(made, contents, strict=True):
        assert client.memory.content(version) == content
    assert client.memory.read(project, "CLAUDE.md") == contents[-1]


def test_a_file_is_read_from_the_folder(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    (folder / "CLAUDE.md").chmod(0o600)
    version = client.memory.snapshot(project, "CLAUDE.md")
    assert (version.mode, version.size) == (0o600, 18)
    (folder / "CLAUDE.md").unlink()
    assert client.memory.snapshot(project, "CLAUDE.md").deleted
    assert client.memory.snapshot(project, "CLAUDE.md") is None


def test_capture_makes_the_history_equal_to_the_folder(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    (folder / "src.py").write_bytes(b"not memory")
    taken = client.memory.capture(project).taken
    assert [(version.path, version.kind) for version in taken] == [("CLAUDE.md", "claude_md"), ("notes.md", "scratch")]
    assert client.memory.capture(project).taken == ()
    (folder / "notes.md").unlink()
    (folder / "CLAUDE.md").write_bytes(b"new")
    changed = client.memory.capture(project).taken
    assert {version.path: version.deleted for version in changed} == {"CLAUDE.md": False, "notes.md": True}


def test_one_known_import_that_became_odd_stops_no_capture(client: Any, folder: Path) -> None:
    (folder / "CLAUDE.md").write_bytes(b"@docs.md")
    (folder / "docs.md").write_bytes(b"imported\n")
    project = new_project(client, folder)
    client.memory.capture(project)
    (folder / "docs.md").unlink()
    os.mkfifo(folder / "docs.md")
    (folder / "CLAUDE.md").write_bytes(b"@docs.md two")
    taken = client.memory.capture(project)
    assert [(version.path, version.deleted) for version in taken.taken] == [("CLAUDE.md", False), ("docs.md", True)]
    assert [path for path, _ in taken.skipped] == ["docs.md"]
    assert "is a FIFO" in taken.skipped[0][1]
    # The file is deleted now, so the next capture has nothing to say.
    assert client.memory.capture(project).skipped == ()


def test_a_missing_folder_is_not_a_deletion_of_everything(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    client.memory.capture(project)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(FileProblem, match="cannot open the project .* mount or restore it"):
        client.memory.capture(project)
    assert not any(version.deleted for version in client.memory.files(project))


def test_heads_of_many_projects_are_those_of_each(client: Any, folder: Path) -> None:
    (folder / "sub").mkdir()
    projects = [new_project(client, folder), new_project(client, folder / "sub", email="bob@example.com")]
    for project in projects:
        client.memory.snapshot(project, "CLAUDE.md", b"one of " + project.name.encode())
        client.memory.snapshot(project, "notes.md", b"x")
        client.memory.delete(project, "notes.md")
    found = client.memory.heads(projects)
    for project in projects:
        assert [one for one in found if one.project_id == project.id] == client.memory.files(project)
    assert len(found) == 4
    assert client.memory.heads(projects[:1]) == client.memory.files(projects[0])
    assert client.memory.heads([]) == []


def test_one_bad_entry_stops_no_other(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    (folder / "AGENTS.md").symlink_to("/etc/hostname")
    capture = client.memory.capture(project)
    assert [version.path for version in capture.taken] == ["CLAUDE.md", "notes.md"]
    assert [path for path, _ in capture.skipped] == ["AGENTS.md"]
    with pytest.raises(OutsideProject, match="symlink"):
        client.memory.snapshot(project, "AGENTS.md")


def test_a_file_over_the_limit_is_kept_as_hash_and_size(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    big = b"x" * (8 * 2**20 + 1)
    (folder / "CLAUDE.md").write_bytes(big)
    version = client.memory.snapshot(project, "CLAUDE.md")
    assert version.size == len(big)
    with pytest.raises(ContentMissing, match="over the size limit"):
        client.memory.content(version)
    assert client.memory.snapshot(project, "CLAUDE.md", b"small again").seq == 2
    assert client.memory.snapshot(project, "CLAUDE.md", big).sha256 == version.sha256


@pytest.mark.parametrize(
    "content", [b"", b"\0\xff" * 5000, b"a", b"\xf0\x9f\x98\x80"], ids=["empty", "binary", "a", "emoji"]
)
def test_any_bytes_are_a_content(client: Any, folder: Path, content: bytes) -> None:
    project = new_project(client, folder)
    client.memory.snapshot(project, "CLAUDE.md", b"something longer before\n" * 9)
    version = client.memory.snapshot(project, "CLAUDE.md", content)
    assert client.memory.content(version) == content


@pytest.mark.parametrize("name", ["new\nline.md", "back\\slash.md", "caf\udce9.md", "emoji😀.md", "a'b\"c%s.md"])
def test_any_name_is_a_path(client: Any, folder: Path, name: str) -> None:
    project = new_project(client, folder)
    client.memory.snapshot(project, name, b"x")
    assert [version.path for version in client.memory.files(project)] == [name]
    assert client.memory.read(project, name) == b"x"


@pytest.mark.parametrize(
    ("path", "error"),
    [("../x.md", OutsideProject), ("/etc/passwd", OutsideProject), ("a\0b", InvalidInput), ("", InvalidInput)],
)
def test_bad_paths_are_refused(client: Any, folder: Path, path: str, error: type[Exception]) -> None:
    project = new_project(client, folder)
    with pytest.raises(error):
        client.memory.snapshot(project, path, b"x")
    assert client.memory.files(project) == []


def test_a_name_too_long_for_the_index_is_refused(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    with pytest.raises(InvalidInput):
        client.memory.snapshot(project, "d/" * 1500 + "x.md", b"x")


def test_bad_arguments_are_refused(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    with pytest.raises(InvalidInput, match="bytes"):
        client.memory.snapshot(project, "CLAUDE.md", "text")
    with pytest.raises(InvalidInput, match="kind"):
        client.memory.snapshot(project, "CLAUDE.md", b"x", kind="checkpoint")
    with pytest.raises(NotFound):
        client.memory.snapshot(project, "never.md")


def test_equal_contents_are_stored_once(client: Any, dsn: str, tmp_path: Path) -> None:
    content = b"the same rules everywhere\n" * 50
    for n in range(5):
        (tmp_path / f"p{n}").mkdir()
        client.memory.snapshot(new_project(client, tmp_path / f"p{n}"), "CLAUDE.md", content)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM memory_blobs").fetchone() == (1,)


def test_tenants_do_not_share_contents(client: Any, dsn: str, tmp_path: Path) -> None:
    for n in range(2):
        user = client.users.create(f"u{n}@example.com")
        client.memory.snapshot(client.projects.create(user, path=tmp_path / str(n)), "CLAUDE.md", b"shared\n")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM memory_blobs").fetchone() == (2,)


def test_a_chain_is_never_deeper_than_its_bound(client: Any, dsn: str, folder: Path) -> None:
    project = new_project(client, folder)
    body = b"".join(b"line %d of the rules\n" % n for n in range(60))
    for n in range(300):
        client.memory.snapshot(project, "CLAUDE.md", body + b"%d\n" % n)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT max(depth), count(*) FILTER (WHERE depth = 0) FROM memory_blobs").fetchone()
    assert row == (256, 2)


def test_corrupt_bytes_are_named_and_never_returned(client: Any, dsn: str, folder: Path) -> None:
    project = new_project(client, folder)
    user = client.users.by_email("ada@example.com")
    body = b"".join(b"line %d of the rules\n" % n for n in range(60))
    versions = [client.memory.snapshot(project, "CLAUDE.md", body + b"%d\n" % n) for n in range(5)]
    assert client.memory.verify(user).ok
    with psycopg.connect(dsn) as connection:
        # The delta is valid, but it is another version's. Only the hash shows this.
        connection.execute(
            "UPDATE memory_blobs SET data = (SELECT data FROM memory_blobs WHERE sha256 = %s) WHERE sha256 = %s",
            [bytes.fromhex(versions[1].sha256), bytes.fromhex(versions[2].sha256)],
        )
    with pytest.raises(IntegrityFailure):
        client.memory.content(versions[2])
    assert client.memory.content(versions[1]).endswith(b"1\n")
    found = client.memory.verify(user)
    assert versions[2].id in {broken.snapshot_id for broken in found.broken}
    assert versions[1].id not in {broken.snapshot_id for broken in found.broken}


def test_a_damaged_chain_does_not_stop_new_versions(dsn: str, atlas: Any, folder: Path) -> None:
    project = new_project(atlas, folder)
    body = b"".join(b"line %d of the rules\n" % n for n in range(60))
    atlas.memory.snapshot(project, "CLAUDE.md", body)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE memory_blobs SET data = '\\x0199'")
    with type(atlas).open(dsn) as fresh:
        version = fresh.memory.snapshot(project, "CLAUDE.md", body + b"more\n")
        assert fresh.memory.content(version) == body + b"more\n"


def test_history_pages(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    for n in range(7):
        client.memory.snapshot(project, "CLAUDE.md", b"%d" % n)
        client.memory.snapshot(project, "notes.md", b"%d" % n)
    page = client.memory.history(project, limit=5)
    rest = client.memory.history(project, limit=50, before=page[-1])
    assert len(page) + len(rest) == 14
    assert not {version.id for version in page} & {version.id for version in rest}
    one = client.memory.history(project, "CLAUDE.md", limit=3)
    assert [version.seq for version in client.memory.history(project, "CLAUDE.md", before=one[-1])] == [4, 3, 2, 1]


def test_context_and_attribution_are_remembered(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    client.memory.snapshot(project, "CLAUDE.md", b"x", context={"run": 7, "tags": ["a"]})
    (version,) = client.memory.history(project)
    assert version.context == {"run": 7, "tags": ["a"]}
    assert version.attribution.source == "sdk"


def test_an_unchanged_file_keeps_its_base_at_hand(
    atlas: Any, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confirming an old head takes one small statement. The next change still takes only one statement."""
    project = new_project(atlas, folder)
    atlas.memory.snapshot(project, "CLAUDE.md", b"one\n" * 20)
    monkeypatch.setattr(append, "HEAD_TRUST_S", 0.0)
    atlas._view._config.query_log = True
    with caplog.at_level("DEBUG", "atlas_sdk.queries"):
        assert atlas.memory.snapshot(project, "CLAUDE.md", b"one\n" * 20) is None
        atlas.memory.snapshot(project, "CLAUDE.md", b"one\n" * 21)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["memory.head", "memory.put"]


@pytest.mark.parametrize(
    "context", [{"x": "\0"}, {"x": "\udcff"}, {"x": float("nan")}], ids=["nul", "surrogate", "nan"]
)
def test_a_context_that_is_no_json_is_refused(client: Any, folder: Path, context: dict[str, object]) -> None:
    project = new_project(client, folder)
    with pytest.raises(InvalidInput):
        client.memory.snapshot(project, "CLAUDE.md", b"x", context=context)
    assert client.memory.files(project) == []


def test_returning_to_an_old_content_keeps_every_chain_readable(client: Any, folder: Path) -> None:
    """A content that is stored already has another place in the chains than the newest version."""
    project = new_project(client, folder)
    body = b"".join(b"rule %d of the house\n" % n for n in range(60))
    contents = [body + b"%d\n" % n * n for n in range(5)]
    contents += [b"rewritten\n" * 99, contents[4], contents[4] + b"more\n", contents[4] + b"more\nand more\n", body]
    contents += [body + b"again\n"]
    made = [client.memory.snapshot(project, "CLAUDE.md", content) for content in contents]
    other = new_project(client, folder.parent)
    made += [
        client.memory.snapshot(other, "CLAUDE.md", contents[8]),
        client.memory.snapshot(other, "CLAUDE.md", b"x" + body),
    ]
    for version, content in zip(made, [*contents, contents[8], b"x" + body], strict=True):
        assert client.memory.content(version) == content
