"""Many versions at once: the same history as one by one, by ids and times that the client chose."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from many_versions import BODY, contents, new_project, version
from test_races import Stepper

from atlas_sdk import Atlas, InvalidInput, NotFound, NotPermitted, QuotaExceeded
from atlas_sdk._connect import new_id
from atlas_sdk._drive.arrays import ArrayDumper
from atlas_sdk._plan import Array
from atlas_sdk.model.blobs import sha256_of
from atlas_sdk.ops.append_many import append_many
from atlas_sdk.ops.new_version import NewVersion, Refused


@pytest.fixture
def stepper(dsn: str) -> Iterator[Stepper]:
    with closing(Stepper(dsn)) as made:
        yield made


@pytest.mark.every_server
def test_results_come_in_the_order_of_the_items(client: Any, folder: Path) -> None:
    one, two = new_project(client, folder), new_project(client, folder)
    client.memory.snapshot(one, "a.md", BODY)
    on_disk = (folder / "CLAUDE.md").read_bytes()
    made = client.memory.snapshot_many(
        [
            (one, "b.md", b"b1"),
            (one, "a.md", BODY),
            (two, "a.md", BODY + b"x"),
            (one, "b.md", b"b2"),
            (one, "CLAUDE.md", None),
            (one, "b.md", b"b2"),
            (one, "a.md", None),
        ]
    )
    found = [None if one is None else (one.path, one.seq, one.deleted) for one in made]
    assert found == [
        ("b.md", 1, False),
        None,
        ("a.md", 1, False),
        ("b.md", 2, False),
        ("CLAUDE.md", 1, False),
        None,
        ("a.md", 2, True),
    ]
    assert contents(client, one, "b.md") == [b"b1", b"b2"]
    assert contents(client, one, "a.md") == [BODY, None]
    assert contents(client, one, "CLAUDE.md") == [on_disk]
    assert contents(client, two, "a.md") == [BODY + b"x"]
    # What the call returns is what the history says.
    by_id = {one.id: one for project in (one, two) for one in client.memory.history(project)}
    assert all(one == by_id[one.id] for one in made if one is not None)
    # The client knows the new versions, and appends to them without a look.
    assert client.memory.snapshot_many([(one, "b.md", b"b2"), (one, "a.md", b"again")])[1].seq == 3
    assert client.memory.snapshot_many([]) == []


def test_a_batch_is_one_statement(embedded: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    project = new_project(embedded, folder)
    embedded._view._config.query_log = True
    with caplog.at_level("DEBUG", "atlas_sdk.queries"):
        embedded.memory.snapshot_many([(project, f"{n}.md", BODY + b"%d" % n) for n in range(20)])
        embedded.memory.snapshot_many([(project, f"{n}.md", BODY + b"more %d" % n) for n in range(20)])
        embedded.memory.snapshot_many([(project, f"{n}.md", BODY + b"more %d" % n) for n in range(20)])
    # Only the first call must ask for the newest versions.
    names = [record.getMessage().split(":")[0] for record in caplog.records]
    assert names == ["memory.heads", "memory.put_many", "memory.put_many"]


def test_new_versions_of_known_files_become_deltas(atlas: Atlas, dsn: str, folder: Path) -> None:
    project = new_project(atlas, folder)
    atlas.memory.snapshot_many([(project, f"{n}.md", BODY * (n + 1)) for n in range(3)])
    with Atlas.open(dsn) as other:
        # This client has neither the newest versions nor their contents.
        other.memory.snapshot_many([(project, f"{n}.md", BODY * (n + 1) + b"end") for n in range(3)])
        other.memory.snapshot_many([(project, "0.md", BODY + b"end" * k) for k in range(2, 5)])
    with psycopg.connect(dsn) as connection:
        depths = connection.execute("SELECT depth, count(*) FROM memory_blobs GROUP BY depth ORDER BY depth").fetchall()
    assert depths == [(0, 3), (1, 3), (2, 1), (3, 1), (4, 1)]
    assert atlas.memory.verify(atlas.users.get(project.user_id)).ok


WRITES = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from("abc"), st.sampled_from([None, b"", b"x", BODY, BODY + b"!", BODY * 2])
    ),
    min_size=1,
    max_size=14,
)


@given(before=WRITES, writes=WRITES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_makes_the_history_of_single_writes(
    before: list[Any], writes: list[Any], stepper: Stepper, atlas: Atlas, folder: Path
) -> None:
    told: list[list[Any]] = []
    for in_a_batch in (True, False):
        projects = [new_project(atlas, folder), new_project(atlas, folder)]
        results: list[Any] = []
        for part in (before, writes):
            news = [version(projects[number], path, content) for number, path, content in part]
            parts = [news] if in_a_batch else [[new] for new in news]
            results += [type(made) for some in parts for made in stepper.run(append_many(some, in_order=False))]
            # Sometimes the client knows the newest versions, and sometimes it must read them.
            if len(part) % 2:
                stepper.context.heads.clear()
        rows = [
            (number, one.path, one.seq, one.sha256, one.size, one.mode, one.kind, one.attribution)
            for number, project in enumerate(projects)
            for path in "abc"
            for one in atlas.memory.history(project, path)
        ]
        told.append([results, rows])
        assert all(atlas.memory.verify(atlas.users.get(project.user_id)).ok for project in projects)
    assert told[0] == told[1]


def test_a_version_has_the_time_of_its_capture(client: Any, stepper: Stepper, folder: Path) -> None:
    project = new_project(client, folder)
    early = datetime.now(UTC) - timedelta(hours=2)
    late = datetime.now(UTC) + timedelta(hours=2)

    def times(path: str) -> list[datetime]:
        return [one.created_at for one in client.memory.history(project, path)[::-1]]

    made = stepper.run(
        append_many(
            [
                version(project, "a", b"1", captured_at=early),
                version(project, "a", b"2", captured_at=early - timedelta(hours=1)),
                version(project, "a", b"3", captured_at=early + timedelta(minutes=5)),
                version(project, "b", b"1", captured_at=late),
                version(project, "b", None, captured_at=early),
            ]
        )
    )
    assert times("a") == [early, early, early + timedelta(minutes=5)]
    stored = times("b")
    # Nothing is in the future, and nothing is older than what it follows.
    assert stored[0] == stored[1] < late - timedelta(hours=1)
    assert [one.created_at for one in made] == [*times("a"), *stored]
    # One by one it is the same; a version without a time of capture is of now.
    for path, captured_at in (("a", early), ("a", None), ("c", early)):
        stepper.context.heads.clear()
        new = version(project, path, new_id().bytes, captured_at=captured_at, snapshot_id=new_id())
        stepper.run(memory_in_turn(new))
    assert times("a")[3] == early + timedelta(minutes=5)
    assert times("a")[4] > early + timedelta(hours=1)
    assert times("c") == [early]
    with pytest.raises(InvalidInput, match="time zone"):
        version(project, "a", b"1", captured_at=datetime(2026, 1, 1))  # noqa: DTZ001


def memory_in_turn(new: NewVersion) -> Any:
    from atlas_sdk.ops.append import append_in_turn

    return append_in_turn(new)


def test_what_is_refused_does_not_stop_the_others(client: Any, stepper: Stepper, folder: Path) -> None:
    project = new_project(client, folder)
    gone = NewVersion(
        user_id=project.user_id, project_id=uuid.uuid4(), path="a", content=b"1", sha256=sha256_of(b"1"), kind="auto"
    )
    batch = [
        version(project, "a", b"1"),
        gone,
        version(project, "b", b"1", context={"text": "a\0b"}),
        version(project, "b", b"2"),
        version(project, "c", None),
        version(project, "c", b"1"),
        version(project, "x" * 3000, b"1"),
        version(project, "d", b"1", context={"text": "\ud800"}),
        version(project, "e", b"1", context={"nan": float("nan")}),
        version(project, "f", b"1", kind="checkpoint"),
        version(project, "g", b"1", link="\udcff"),
        version(project, "h", b"1", context={"text": "a\\u0000b"}),
    ]
    made = stepper.run(append_many(batch))
    problems = [type(one.problem) if isinstance(one, Refused) else None for one in made]
    assert problems == [None, NotFound, InvalidInput, InvalidInput, NotFound, None, *[InvalidInput] * 5, None]
    assert contents(client, project, "a") == contents(client, project, "c") == [b"1"]
    assert client.memory.history(project, "b") == []
    assert client.memory.history(project, "h")[0].context == {"text": "a\\u0000b"}
    # Without an order to keep, a later version is stored.
    made = stepper.run(append_many(batch[2:4], in_order=False))
    assert isinstance(made[0], Refused)
    assert contents(client, project, "b") == [b"2"]
    # The client's method raises at the end, and the rest is stored.
    with pytest.raises(NotFound):
        client.memory.snapshot_many([(project, "gone.md", None), (project, "late.md", b"1")])
    assert contents(client, project, "late.md") == [b"1"]


def test_a_hard_limit_holds_exactly(client: Any, stepper: Stepper, folder: Path) -> None:
    project = new_project(client, folder, memory_bytes=3_100, memory_hard=True)
    other = new_project(client, folder)
    noise = [uuid.uuid4().bytes * 60 for _ in range(4)]
    body = [b"".join(uuid.uuid4().bytes for _ in range(62)) for _ in range(5)]
    batch = [version(project, f"{n}", body[n]) for n in range(5)] + [version(other, "x", noise[0])]
    batch += [version(project, "0", b"short"), version(project, "4", b"tiny")]
    made = stepper.run(append_many(batch))
    refused = [number for number, one in enumerate(made) if isinstance(one, Refused)]
    # Three contents of 993 bytes fit, and so does a short one; the later version of a refused file waits for it.
    assert refused == [3, 4, 7]
    assert all(isinstance(made[number].problem, QuotaExceeded) for number in refused)
    user = client.users.get(project.user_id)
    assert client.quotas.memory(user).bytes <= 3_100
    assert contents(client, project, "0") == [body[0], b"short"]
    assert contents(client, other, "x") == [noise[0]]
    # A batch that fits is one statement, and what is stored already takes nothing.
    assert stepper.run(append_many([version(project, "copy", body[0]), version(project, "copy", body[1])]))[1].seq == 2


def test_a_batch_in_a_transaction_is_undone_with_it(client: Any, atlas: Atlas, folder: Path) -> None:
    project = new_project(atlas, folder)
    atlas.memory.snapshot(project, "a", b"0")
    with pytest.raises(ZeroDivisionError), atlas.transaction() as tx:
        assert all(tx.memory.snapshot_many([(project, "a", b"1"), (project, "b", b"1")]))
        with pytest.raises(NotFound):
            tx.memory.snapshot_many([(project, "gone", None), (project, "c", b"1")])
        assert tx.memory.history(project, "c") == []
        raise ZeroDivisionError
    assert atlas.memory.snapshot_many([(project, "a", b"0"), (project, "b", b"2")])[0] is None
    assert contents(atlas, project, "a") == [b"0"]
    assert contents(atlas, project, "b") == [b"2"]
    with atlas.transaction() as tx:
        tx.memory.snapshot_many([(project, "a", b"1"), (project, "b", b"3")])
        tx.memory.snapshot_many([(project, "a", b"2")])
    assert contents(atlas, project, "a") == [b"0", b"1", b"2"]


def test_a_users_client_stores_only_its_own(atlas: Atlas, folder: Path) -> None:
    mine, other = new_project(atlas, folder), new_project(atlas, folder)
    user = atlas.users.get(mine.user_id)
    with atlas.as_user(user) as view:
        assert all(view.memory.snapshot_many([(mine, "a", b"1"), (mine, "a", b"2"), (mine, "b", BODY)]))
        assert view.memory.snapshot_many([(mine, "a", None), (mine, "b", BODY + b"!")])[1].seq == 2
        with pytest.raises(NotPermitted):
            view.memory.snapshot_many([(mine, "a", b"3"), (other, "a", b"1")])
    assert contents(atlas, mine, "a") == [b"1", b"2", None]
    assert atlas.memory.history(other) == []


def test_plain_sql_that_removed_the_newest_version_stops_no_batch(client: Any, dsn: str, folder: Path) -> None:
    project = new_project(client, folder)
    client.memory.snapshot_many([(project, "a", b"1"), (project, "b", b"1")])
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE memory_files SET snapshot_id = gen_random_uuid() WHERE path = 'a'")
    made = client.memory.snapshot_many([(project, "a", b"2"), (project, "b", b"2")])
    assert [one.seq for one in made] == [2, 2]


def test_arrays_arrive_as_they_are(migrated: psycopg.Connection[Any]) -> None:
    migrated.adapters.register_dumper(Array, ArrayDumper)
    migrated.execute("SET TimeZone = 'UTC'")
    cases: list[tuple[str, list[Any]]] = [
        ("uuid", [uuid.uuid4(), None, uuid.uuid4()]),
        ("text", ["", 'ä\\{},"', None]),
        ("bytea", [b"", b"\0\\x", None]),
        ("int4", [0, -1, 2**31 - 1]),
        ("int8", [None, 2**63 - 1]),
        ("timestamptz", [datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), None, datetime.max.replace(tzinfo=UTC)]),
        ("uuid", []),
        ("text", [None]),
    ]
    for of, values in cases:
        found = migrated.execute(f"SELECT %s::{of}[]", [Array(of, values)]).fetchone()
        assert found == (values,), of
    migrated.execute("SET client_encoding = 'LATIN1'")
    assert migrated.execute("SELECT %s::text[] = ARRAY[chr(228)]", [Array("text", ["ä"])]).fetchone() == (True,)
