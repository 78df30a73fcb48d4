"""References, by which people name a version, and the errors for references without a version."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest

from atlas_sdk import AmbiguousReference, Atlas, AtlasError, InvalidInput, NotFound, OutsideProject, Project
from atlas_sdk._connect import new_id
from atlas_sdk.ops import references

PATHS = ["CLAUDE.md", "notes.md"]


@pytest.fixture(scope="module")
def shared(atlas_home: Path) -> Iterator[Atlas]:
    """Yield a client that tests share if they only need their own tenant."""
    with Atlas.open(home=atlas_home) as client:
        yield client


def new_project(client: Any, folder: Path) -> Project:
    return client.projects.create(client.users.create(f"{uuid4().hex}@example.com"), path=folder)


def two_files(client: Any, folder: Path, *checkpoints: str) -> Project:
    """Make three versions of each file. The checkpoints name the second versions."""
    project = new_project(client, folder)
    for n in (1, 2, 3):
        for path in PATHS:
            client.memory.snapshot(project, path, b"%s %d" % (path.encode(), n))
        if n == 2:
            for name in checkpoints:
                client.memory.checkpoint(project, name)
    return project


def named(client: Any, project: Project, reference: str) -> dict[str, int]:
    found = client.memory.resolve(project, reference)
    assert found.reference == (reference or "latest")
    return {version.path: version.seq for version in found.versions}


def age(url: str, version: Any, by: timedelta) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE memory_snapshots SET created_at = now() - %s WHERE id = %s", [by, version.id])


def test_every_form_names_its_versions(client: Any, folder: Path) -> None:
    project = two_files(client, folder, "before refactor")
    second = client.memory.history(project, "notes.md")[2]
    assert (second.seq, second.kind) == (2, "scratch")
    assert named(client, project, "latest") == named(client, project, "") == dict.fromkeys(PATHS, 3)
    assert named(client, project, "@{now}") == dict.fromkeys(PATHS, 3)
    assert named(client, project, "before refactor") == dict.fromkeys(PATHS, 2)
    for reference in (str(second.id), second.id.hex, second.id.hex.upper(), str(second.id)[:-1]):
        assert named(client, project, reference) == {"notes.md": 2}
    for after in ("before refactor", second.id.hex):
        assert named(client, project, f"notes.md@{after}") == {"notes.md": 2}
    for after in ("", "latest", "{now}"):
        assert named(client, project, f"./notes.md@{after}") == {"notes.md": 3}
    assert client.memory.resolve(project, "before refactor").whole
    assert not client.memory.resolve(project, "notes.md@before refactor").whole
    assert client.memory.read(project, "notes.md", "notes.md@before refactor") == b"notes.md 2"
    assert client.memory.version(project, folder / "notes.md", second.id.hex).id == second.id


@pytest.mark.parametrize(
    "name", ["v1@rc", "CLAUDE.md@final", "@v1", "v1@", "a@{b", "deadbeef", "1", "'; --", "Größe 😀"]
)
def test_any_name_of_a_checkpoint_is_a_reference(shared: Atlas, folder: Path, name: str) -> None:
    project = two_files(shared, folder, name)
    assert named(shared, project, name) == dict.fromkeys(PATHS, 2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("v1@rc"),
        pytest.param("v1 {x}"),
        pytest.param("deadbeef"),
        pytest.param("../x"),
    ],
)
def test_a_path_at_any_name_of_a_checkpoint(shared: Atlas, folder: Path, name: str) -> None:
    project = two_files(shared, folder, name)
    assert named(shared, project, f"CLAUDE.md@{name}") == {"CLAUDE.md": 2}


def test_a_file_with_an_at_in_its_name(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    shared.memory.snapshot(project, "notes/a@b.md", b"x")
    assert named(shared, project, "notes/a@b.md@latest") == {"notes/a@b.md": 1}


def test_a_moment_names_what_was_the_newest_then(shared: Atlas, folder: Path) -> None:
    project = two_files(shared, folder, "anything")
    first, second, named_by_checkpoint, third = shared.memory.history(project, "CLAUDE.md")[::-1]
    assert [version.seq for version in (first, second, third)] == [1, 2, 3]
    assert named_by_checkpoint.checkpoint == "anything"
    # Every moment below is at least an hour away from all versions, so a slow machine gets the same answers.
    for version, ago in ((first, {"days": 9}), (second, {"days": 2, "hours": 1}), (third, {"hours": 3})):
        age(shared.url, version, timedelta(**ago))
    moments = {"@{yesterday}": 2, "@{2d}": 2, "@{3 days ago}": 1, "@{1w}": 1, "@{ 1 Week ago }": 1, "@{5h ago}": 2}
    moments |= {"@{18000s}": 2, "@{300min}": 2, "@{300m}": 2, "@{0m}": 3, "@{0 hours ago}": 3, "@{1h}": 3}
    for moment, seq in moments.items():
        assert named(shared, project, f"CLAUDE.md{moment}") == {"CLAUDE.md": seq}, moment
    with pytest.raises(NotFound, match=r"^CLAUDE\.md did not exist at '@\{10d\}'$"):
        shared.memory.resolve(project, "CLAUDE.md@{10d}")
    assert named(shared, project, "@{10d}") == {}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("month", [3, 4, 10, 11])
def test_an_hour_ago_is_an_hour_ago_where_clocks_change(zone: str, month: int) -> None:
    """The time zone of the session does not matter. When clocks change, an hour by the clock is two hours or none."""
    now = datetime(2026, month, 1, tzinfo=UTC)
    while now.month == month:
        here = now.astimezone(ZoneInfo(zone))
        assert references._moment("1h ago", here) == now - timedelta(hours=1), here
        assert references._moment("yesterday", here) == now - timedelta(hours=24), here
        now += timedelta(minutes=30)


def test_a_version_is_older_than_the_checkpoints_that_name_it(client: Any, dsn: str, folder: Path) -> None:
    project = new_project(client, folder)
    version = client.memory.snapshot(project, "CLAUDE.md", b"1")
    client.memory.checkpoint(project, "one")
    client.memory.checkpoint(project, "two")
    newest = client.memory.snapshot(project, "CLAUDE.md", b"2")
    # The writer's clock was ahead, so the version's id is greater than those of the checkpoints.
    ahead = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE memory_snapshots SET id = %s WHERE id = %s", [ahead, version.id])
    found = client.memory.history(project, "CLAUDE.md")
    assert [row.checkpoint or row.seq for row in found] == [2, "two", "one", 1]
    assert (found[0].id, found[3].id) == (newest.id, ahead)
    # Page by page, no row comes twice, and none is left out.
    paged, before = [], None
    while page := client.memory.history(project, "CLAUDE.md", limit=1, before=before):
        paged += page
        before = page[-1]
    assert paged == found


def test_rows_of_a_checkpoint_are_newer_than_what_the_client_wrote_before(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    for number in range(20):
        client.memory.snapshot(project, f"notes{number}.md", b"1")
    before = new_id()
    made = client.memory.checkpoint(project, "one")
    rows = client.memory.resolve(project, "one").versions
    assert len({row.id for row in rows}) == 20
    # The ids share their millisecond and counter with the checkpoint, so the order also holds within a millisecond.
    assert {row.id.hex[:24] for row in rows} == {made.id.hex[:24]}
    assert all(before < row.id < new_id() for row in rows)
    assert [row.checkpoint for row in client.memory.history(project)[:20]] == ["one"] * 20


def test_a_moment_is_an_iso_date_in_any_zone(shared: Atlas, folder: Path) -> None:
    project = two_files(shared, folder)
    last = shared.memory.history(project, limit=1)[0]
    before = last.created_at - timedelta(microseconds=1)
    for moment in (last.created_at, last.created_at.astimezone(), last.created_at.astimezone().replace(tzinfo=None)):
        assert named(shared, project, f"@{{{moment.isoformat(' ')}}}") == dict.fromkeys(PATHS, 3)
    assert named(shared, project, f"@{{{before.isoformat()}}}") == {"CLAUDE.md": 3, "notes.md": 2}
    assert named(shared, project, "@{2999-12-31}") == dict.fromkeys(PATHS, 3)
    assert named(shared, project, "@{1970-01-01 00:00}") == {}


def craft_ids(shared: Atlas, project: Project) -> list[UUID]:
    """Give the versions known ids that share their first digits, as ids of one millisecond do."""
    ids = [UUID(f"01a2b3c4-d5e6-7fff-8000-0000000000{n:02x}") for n in range(6)]
    ids[5] = UUID("01a2b3c4-d5e6-7fff-9000-000000000000")
    versions = shared.memory.history(project)[::-1]
    with psycopg.connect(shared.url) as connection:
        for version, new in zip(versions, ids, strict=True):
            connection.execute("UPDATE memory_snapshots SET id = %s WHERE id = %s", [new, version.id])
            connection.execute(
                "UPDATE memory_files SET snapshot_id = CASE snapshot_id WHEN %(old)s THEN %(new)s ELSE snapshot_id END,"
                " content_id = CASE content_id WHEN %(old)s THEN %(new)s ELSE content_id END"
                " WHERE project_id = %(project)s",
                {"old": version.id, "new": new, "project": project.id},
            )
    return ids


def test_an_ambiguous_prefix_names_its_candidates(shared: Atlas, folder: Path) -> None:
    project = two_files(shared, folder)
    ids = craft_ids(shared, project)
    assert (
        named(shared, project, "01a2b3c4d5e67fff9") == named(shared, project, "01a2b3c4-d5e6-7fff-9") == {"notes.md": 3}
    )
    assert named(shared, project, str(ids[4])) == {"CLAUDE.md": 3}
    with pytest.raises(AmbiguousReference) as caught:
        shared.memory.resolve(project, "01a2b3c4")
    assert caught.value.reference == "01a2b3c4"
    # The error names only the first five candidates.
    assert caught.value.candidates == tuple(f"{id_} ({PATHS[n % 2]})" for n, id_ in enumerate(ids[:5]))
    # With a path there are fewer candidates.
    with pytest.raises(AmbiguousReference):
        shared.memory.resolve(project, "notes.md@01a2b3c4")
    assert named(shared, project, "notes.md@01a2b3c4d5e67fff9") == {"notes.md": 3}
    with pytest.raises(NotFound):
        shared.memory.resolve(project, "CLAUDE.md@01a2b3c4d5e67fff9")


def test_rows_of_a_checkpoint_do_not_make_a_prefix_ambiguous(shared: Atlas, folder: Path) -> None:
    project = two_files(shared, folder, "before")
    row = shared.memory.resolve(project, "before").versions[0]
    assert shared.memory.resolve(project, str(row.id)).versions == (row,)
    with pytest.raises(NotFound):
        shared.memory.resolve(project, str(row.id)[:-1])


def test_a_deleted_file_is_there_before_and_not_after(client: Any, folder: Path) -> None:
    project = two_files(client, folder, "before")
    gone = client.memory.delete(project, "notes.md")
    client.memory.checkpoint(project, "after")
    assert named(client, project, "notes.md@before") == {"notes.md": 2}
    for reference in ("latest", "after", "@{now}"):
        assert named(client, project, reference) == {"CLAUDE.md": 3}
        full = f"notes.md{'' if reference[0] == '@' else '@'}{reference}"
        with pytest.raises(NotFound, match=r"^notes\.md did not exist at") as caught:
            client.memory.resolve(project, full)
        assert caught.value.kind == "version"
        with pytest.raises(NotFound, match=r"^notes\.md did not exist at"):
            client.memory.read(project, "notes.md", reference)
    assert client.memory.resolve(project, gone.id.hex).versions[0].deleted
    with pytest.raises(NotFound):
        client.memory.read(project, "notes.md", gone.id.hex)
    assert client.memory.content(gone) == b""


UNKNOWN = [
    "before",
    "@",
    "@before",
    "@{2h ago",
    "@@",
    "CLAUDE.md@nothing",
    "abc",
    "0000",
    "f" * 33,
    "12-34-zz",
    "LATEST",
    " latest",
    "%",
]
NO_MOMENT = [
    "@{}",
    "@{soon}",
    "@{2 fortnights}",
    "@{-1h}",
    "@{infinity}",
    "@{2026-13-01}",
    "@{1h ago}x",
    "@{{1h}}",
    "@{1h}@{2h}",
]
BROKEN = ["a\0b", "CLAUDE.md@a\0b", "caf\udce9", "CLAUDE.md@caf\udce9"]
OUT_OF_RANGE = ["@{999999w}", "@{0001-01-01T00:00+05:00}", "@{9999-12-31T23:59-05:00}"]


@pytest.mark.parametrize(
    ("references", "error"),
    [
        (UNKNOWN, NotFound),
        (NO_MOMENT, InvalidInput),
        (["../x.md@latest", "/etc/passwd@latest"], OutsideProject),
        pytest.param(BROKEN, AtlasError),
        pytest.param(OUT_OF_RANGE, InvalidInput),
    ],
    ids=["unknown", "no moment", "outside", "not text", "out of range"],
)
def test_a_bad_reference_is_an_error_of_one_line(
    shared: Atlas, folder: Path, references: list[str], error: type[AtlasError]
) -> None:
    project = two_files(shared, folder)
    for reference in references:
        with pytest.raises(error) as caught:
            shared.memory.resolve(project, reference)
        assert "\n" not in str(caught.value), reference


def test_another_tenants_names_are_unknown(shared: Atlas, folder: Path) -> None:
    theirs = two_files(shared, folder, "secret")
    ours = new_project(shared, folder)
    for reference in ("secret", shared.memory.files(theirs)[0].id.hex):
        with pytest.raises(NotFound):
            shared.memory.resolve(ours, reference)
