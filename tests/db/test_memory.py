"""Versions of memory files, through both faces."""

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


def new_project(face: Any, folder: Path) -> Project:
    user = face.users.by_email("ada@example.com") or face.users.create("ada@example.com", name="Ada")
    return face.projects.create(user, path=folder)


def test_unchanged_content_is_no_version(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    first = face.memory.snapshot(project, "CLAUDE.md", b"one\n")
    assert (first.seq, first.kind, first.size) == (1, "claude_md", 4)
    assert face.memory.snapshot(project, "CLAUDE.md", b"one\n") is None
    assert face.memory.snapshot(project, "CLAUDE.md", b"two\n").seq == 2
    assert face.memory.snapshot(project, "CLAUDE.md", b"one\n").seq == 3
    assert [version.seq for version in face.memory.history(project, "CLAUDE.md")] == [3, 2, 1]


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
    """Ours, theirs, ours again: three versions, however fast, with the shared marks of one machine and without."""
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


def test_every_version_reads_back(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    contents = [b"line\n" * n + bytes([n]) for n in range(40)]
    made = [face.memory.snapshot(project, "CLAUDE.md", content) for content in contents]
    for version, content in zip(made, contents, strict=True):
        assert face.memory.content(version) == content
    assert face.memory.read(project, "CLAUDE.md") == contents[-1]


def test_a_file_is_read_from_the_folder(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    (folder / "CLAUDE.md").chmod(0o600)
    version = face.memory.snapshot(project, "CLAUDE.md")
    assert (version.mode, version.size) == (0o600, 18)
    (folder / "CLAUDE.md").unlink()
    assert face.memory.snapshot(project, "CLAUDE.md").deleted
    assert face.memory.snapshot(project, "CLAUDE.md") is None


def test_capture_makes_the_history_equal_to_the_folder(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    (folder / "src.py").write_bytes(b"not memory")
    taken = face.memory.capture(project).taken
    assert [(version.path, version.kind) for version in taken] == [("CLAUDE.md", "claude_md"), ("notes.md", "scratch")]
    assert face.memory.capture(project).taken == ()
    (folder / "notes.md").unlink()
    (folder / "CLAUDE.md").write_bytes(b"new")
    changed = face.memory.capture(project).taken
    assert {version.path: version.deleted for version in changed} == {"CLAUDE.md": False, "notes.md": True}


def test_one_known_import_that_became_odd_stops_no_capture(face: Any, folder: Path) -> None:
    (folder / "CLAUDE.md").write_bytes(b"@docs.md")
    (folder / "docs.md").write_bytes(b"imported\n")
    project = new_project(face, folder)
    face.memory.capture(project)
    (folder / "docs.md").unlink()
    os.mkfifo(folder / "docs.md")
    (folder / "CLAUDE.md").write_bytes(b"@docs.md two")
    taken = face.memory.capture(project)
    assert [version.path for version in taken.taken] == ["CLAUDE.md"]
    assert [path for path, _ in taken.skipped] == ["docs.md"]
    assert "is a FIFO" in taken.skipped[0][1]


def test_a_missing_folder_is_not_a_deletion_of_everything(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    face.memory.capture(project)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(FileProblem, match="cannot open the project .* mount or restore it"):
        face.memory.capture(project)
    assert not any(version.deleted for version in face.memory.files(project))


def test_one_bad_entry_stops_no_other(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    (folder / "AGENTS.md").symlink_to("/etc/hostname")
    capture = face.memory.capture(project)
    assert [version.path for version in capture.taken] == ["CLAUDE.md", "notes.md"]
    assert [path for path, _ in capture.skipped] == ["AGENTS.md"]
    with pytest.raises(OutsideProject, match="symlink"):
        face.memory.snapshot(project, "AGENTS.md")


def test_a_file_over_the_limit_is_kept_as_hash_and_size(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    big = b"x" * (8 * 2**20 + 1)
    (folder / "CLAUDE.md").write_bytes(big)
    version = face.memory.snapshot(project, "CLAUDE.md")
    assert version.size == len(big)
    with pytest.raises(ContentMissing, match="over the size limit"):
        face.memory.content(version)
    assert face.memory.snapshot(project, "CLAUDE.md", b"small again").seq == 2
    assert face.memory.snapshot(project, "CLAUDE.md", big).sha256 == version.sha256


@pytest.mark.parametrize(
    "content", [b"", b"\0\xff" * 5000, b"a", b"\xf0\x9f\x98\x80"], ids=["empty", "binary", "a", "emoji"]
)
def test_any_bytes_are_a_content(face: Any, folder: Path, content: bytes) -> None:
    project = new_project(face, folder)
    face.memory.snapshot(project, "CLAUDE.md", b"something longer before\n" * 9)
    version = face.memory.snapshot(project, "CLAUDE.md", content)
    assert face.memory.content(version) == content


@pytest.mark.parametrize("name", ["new\nline.md", "back\\slash.md", "caf\udce9.md", "emoji😀.md", "a'b\"c%s.md"])
def test_any_name_is_a_path(face: Any, folder: Path, name: str) -> None:
    project = new_project(face, folder)
    face.memory.snapshot(project, name, b"x")
    assert [version.path for version in face.memory.files(project)] == [name]
    assert face.memory.read(project, name) == b"x"


@pytest.mark.parametrize(
    ("path", "error"),
    [("../x.md", OutsideProject), ("/etc/passwd", OutsideProject), ("a\0b", InvalidInput), ("", InvalidInput)],
)
def test_bad_paths_are_refused(face: Any, folder: Path, path: str, error: type[Exception]) -> None:
    project = new_project(face, folder)
    with pytest.raises(error):
        face.memory.snapshot(project, path, b"x")
    assert face.memory.files(project) == []


def test_a_name_too_long_for_the_index_is_refused(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    with pytest.raises(InvalidInput):
        face.memory.snapshot(project, "d/" * 1500 + "x.md", b"x")


def test_bad_arguments_are_refused(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    with pytest.raises(InvalidInput, match="bytes"):
        face.memory.snapshot(project, "CLAUDE.md", "text")
    with pytest.raises(InvalidInput, match="kind"):
        face.memory.snapshot(project, "CLAUDE.md", b"x", kind="checkpoint")
    with pytest.raises(NotFound):
        face.memory.snapshot(project, "never.md")


def test_equal_contents_are_stored_once(face: Any, dsn: str, tmp_path: Path) -> None:
    content = b"the same rules everywhere\n" * 50
    for n in range(5):
        (tmp_path / f"p{n}").mkdir()
        face.memory.snapshot(new_project(face, tmp_path / f"p{n}"), "CLAUDE.md", content)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM memory_blobs").fetchone() == (1,)


def test_tenants_do_not_share_contents(face: Any, dsn: str, tmp_path: Path) -> None:
    for n in range(2):
        user = face.users.create(f"u{n}@example.com")
        face.memory.snapshot(face.projects.create(user, path=tmp_path / str(n)), "CLAUDE.md", b"shared\n")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM memory_blobs").fetchone() == (2,)


def test_a_chain_is_never_deeper_than_its_bound(face: Any, dsn: str, folder: Path) -> None:
    project = new_project(face, folder)
    body = b"".join(b"line %d of the rules\n" % n for n in range(60))
    for n in range(300):
        face.memory.snapshot(project, "CLAUDE.md", body + b"%d\n" % n)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT max(depth), count(*) FILTER (WHERE depth = 0) FROM memory_blobs").fetchone()
    assert row == (256, 2)


def test_corrupt_bytes_are_named_and_never_returned(face: Any, dsn: str, folder: Path) -> None:
    project = new_project(face, folder)
    user = face.users.by_email("ada@example.com")
    body = b"".join(b"line %d of the rules\n" % n for n in range(60))
    versions = [face.memory.snapshot(project, "CLAUDE.md", body + b"%d\n" % n) for n in range(5)]
    assert face.memory.verify(user).ok
    with psycopg.connect(dsn) as connection:
        # A valid delta, but another version's: only the hash can tell.
        connection.execute(
            "UPDATE memory_blobs SET data = (SELECT data FROM memory_blobs WHERE sha256 = %s) WHERE sha256 = %s",
            [bytes.fromhex(versions[1].sha256), bytes.fromhex(versions[2].sha256)],
        )
    with pytest.raises(IntegrityFailure):
        face.memory.content(versions[2])
    assert face.memory.content(versions[1]).endswith(b"1\n")
    found = face.memory.verify(user)
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


def test_history_pages(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    for n in range(7):
        face.memory.snapshot(project, "CLAUDE.md", b"%d" % n)
        face.memory.snapshot(project, "notes.md", b"%d" % n)
    page = face.memory.history(project, limit=5)
    rest = face.memory.history(project, limit=50, before=page[-1])
    assert len(page) + len(rest) == 14
    assert not {version.id for version in page} & {version.id for version in rest}
    one = face.memory.history(project, "CLAUDE.md", limit=3)
    assert [version.seq for version in face.memory.history(project, "CLAUDE.md", before=one[-1])] == [4, 3, 2, 1]


def test_context_and_attribution_are_remembered(face: Any, folder: Path) -> None:
    project = new_project(face, folder)
    face.memory.snapshot(project, "CLAUDE.md", b"x", context={"run": 7, "tags": ["a"]})
    (version,) = face.memory.history(project)
    assert version.context == {"run": 7, "tags": ["a"]}
    assert version.attribution.source == "sdk"


def test_an_unchanged_file_keeps_its_base_at_hand(
    atlas: Any, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confirming an old head costs one small statement, and the next change still needs no other."""
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
def test_a_context_that_is_no_json_is_refused(face: Any, folder: Path, context: dict[str, object]) -> None:
    project = new_project(face, folder)
    with pytest.raises(InvalidInput):
        face.memory.snapshot(project, "CLAUDE.md", b"x", context=context)
    assert face.memory.files(project) == []


def test_returning_to_an_old_content_keeps_every_chain_readable(face: Any, folder: Path) -> None:
    """Content that is stored already stands elsewhere in a chain than where the writer is."""
    project = new_project(face, folder)
    body = b"".join(b"rule %d of the house\n" % n for n in range(60))
    contents = [body + b"%d\n" % n * n for n in range(5)]
    contents += [b"rewritten\n" * 99, contents[4], contents[4] + b"more\n", contents[4] + b"more\nand more\n", body]
    contents += [body + b"again\n"]
    made = [face.memory.snapshot(project, "CLAUDE.md", content) for content in contents]
    other = new_project(face, folder.parent)
    made += [
        face.memory.snapshot(other, "CLAUDE.md", contents[8]),
        face.memory.snapshot(other, "CLAUDE.md", b"x" + body),
    ]
    for version, content in zip(made, [*contents, contents[8], b"x" + body], strict=True):
        assert face.memory.content(version) == content
