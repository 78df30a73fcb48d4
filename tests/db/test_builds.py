"""Builds: every change of status, logs under concurrency, pages and statistics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from atlas_sdk import Atlas, Build, IllegalTransition, InvalidInput, NotFound, Project
from atlas_sdk.model.builds import BUILD_STATUSES

ALLOWED = {("queued", "running"), ("queued", "failed"), ("running", "succeeded"), ("running", "failed")}


@pytest.fixture
def project(client: Any) -> Project:
    return client.projects.create(client.users.create("ada@example.com"), path="/srv/app")


def events_of(client: Any, project: Project) -> list[str]:
    user = client.users.get(project.user_id)
    return [event.type for event in client.events.search(user, event_type="build.", limit=1000)][::-1]


def build_in(client: Any, project: Project, status: str) -> Build:
    build = client.builds.create(project)
    if status in ("running", "succeeded"):
        build = client.builds.start(build, container_id="c1")
    if status in ("succeeded", "failed"):
        build = move(client, build, status)
    return build


def move(client: Any, build: Build, status: str) -> Build:
    if status == "failed":
        return client.builds.fail(build, error="broken")
    return {"running": client.builds.start, "succeeded": client.builds.succeed}[status](build)


def test_every_change_is_made_repeated_or_refused(client: Any, project: Project) -> None:
    for before, after in product(BUILD_STATUSES, BUILD_STATUSES[1:]):
        build = build_in(client, project, before)
        told = events_of(client, project)
        if before == after:
            assert move(client, build, after) == build
            assert events_of(client, project) == told
        elif (before, after) in ALLOWED:
            changed = move(client, build, after)
            assert changed.status == after
            told.append({"running": "build.started"}.get(after, f"build.{after}"))
            assert events_of(client, project) == told
            assert move(client, build, after) == changed
            assert events_of(client, project) == told
        else:
            with pytest.raises(IllegalTransition) as refusal:
                move(client, build, after)
            facts = (refusal.value.kind, refusal.value.name, refusal.value.from_status, refusal.value.to_status)
            assert facts == ("build", str(build.id), before, after)
            assert refusal.value.exit_code == 1
            assert client.builds.get(client.users.get(project.user_id), build.id) == build
            assert events_of(client, project) == told


@pytest.mark.every_server
def test_the_database_itself_refuses_every_other_change(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as raw:
        user_id = raw.execute("INSERT INTO users (email) VALUES ('ada@example.com') RETURNING id").fetchone()[0]
        (project_id,) = raw.execute(
            "INSERT INTO projects (user_id, session_id, name, path) VALUES (%s, 's', 'n', '/p') RETURNING id",
            (user_id,),
        ).fetchone()
        for before, after in product(BUILD_STATUSES, BUILD_STATUSES):
            columns = {"queued": "NULL, NULL", "running": "now(), NULL"}.get(before, "now(), now()")
            (build_id,) = raw.execute(
                f"""INSERT INTO builds (user_id, project_id, status, started_at, finished_at)
                    VALUES (%s, %s, %s, {columns}) RETURNING id""",
                (user_id, project_id, before),
            ).fetchone()
            change = "UPDATE builds SET status = %s WHERE id = %s RETURNING status"
            if before == after or (before, after) in ALLOWED:
                assert raw.execute(change, (after, build_id)).fetchone() == (after,)
            else:
                with pytest.raises(errors.IntegrityError) as refusal:
                    raw.execute(change, (after, build_id))
                assert refusal.value.sqlstate == "23T01", (before, after)


def test_of_many_builders_one_starts_a_build(atlas: Atlas) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    build = atlas.builds.create(project)
    with ThreadPoolExecutor(8) as threads:
        started = list(threads.map(lambda n: atlas.builds.start(build, container_id=f"c{n}"), range(8)))
    assert len({one.container_id for one in started}) == 1
    assert events_of(atlas, project) == ["build.created", "build.started"]


def test_of_many_ends_one_holds(atlas: Atlas) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    for _ in range(5):
        build = atlas.builds.start(atlas.builds.create(project))

        def end(number: int, build: Build = build) -> str:
            try:
                return move(atlas, build, "failed" if number % 2 else "succeeded").status
            except IllegalTransition as refusal:
                return refusal.from_status

        with ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(end, range(8)))) == 1
    ends = [event for event in events_of(atlas, project) if event in ("build.failed", "build.succeeded")]
    assert len(ends) == 5


def test_a_build_never_ends_before_it_starts(atlas: Atlas) -> None:
    """Here the transaction that ends the build began before the build started."""
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    build = atlas.builds.create(project)
    with atlas.transaction() as tx:
        tx.builds.get(tx.users.get(project.user_id), build.id)
        started = atlas.builds.start(build)
        ended = tx.builds.succeed(build)
    assert ended.started_at == started.started_at
    assert ended.duration >= timedelta()


def test_a_refused_change_leaves_the_transaction_usable(client: Any, project: Project, dsn: str) -> None:
    done = build_in(client, project, "succeeded")
    with Atlas.open(dsn) as atlas, atlas.transaction() as tx:
        with pytest.raises(IllegalTransition):
            tx.builds.start(done)
        later = tx.builds.create(project)
    assert client.builds.list(project) == [later, done]


def test_what_a_builder_tells_is_kept(client: Any, project: Project) -> None:
    build = client.builds.create(project, resource_usage={"cpu": 1, "disk": 5}, meta={"commit": "abc"})
    client.builds.start(build, container_id="c1", image_id="i1")
    done = client.builds.succeed(build, resource_usage={"cpu": 2}, image_id="i2")
    assert (done.container_id, done.image_id, done.resource_usage) == ("c1", "i2", {"cpu": 2, "disk": 5})
    assert done.started_at <= done.finished_at
    user = client.users.get(project.user_id)
    created = client.events.search(user, event_type="build.created")[0]
    assert (created.meta["commit"], created.meta["build"], created.project_id) == ("abc", str(build.id), project.id)
    failed = client.builds.fail(client.builds.create(project), error="x" * 70_000 + "the end")
    assert len(failed.error_message) == 65_536
    assert failed.error_message.endswith("the end")
    assert (failed.started_at, failed.duration) == (None, None)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client, project: client.builds.create(project, resource_usage=[1]), "resource_usage"),
        (lambda client, project: client.builds.create(project, meta="x"), "meta"),
        (lambda client, project: client.builds.start(client.builds.create(project), container_id=""), "container_id"),
        (lambda client, project: client.builds.start(client.builds.create(project), image_id="i" * 256), "image_id"),
        (lambda client, project: client.builds.list(project, limit=0), "limit"),
        (lambda client, project: client.builds.list(project, status="done"), "status"),
        (lambda client, project: client.builds.list(project, before=uuid4(), after=uuid4()), "after"),
    ],
)
def test_bad_input_is_named(client: Any, project: Project, call: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        call(client, project)
    assert failure.value.field == field


def test_a_build_that_is_gone_is_not_found(client: Any, project: Project, dsn: str) -> None:
    build = client.builds.create(project)
    other = client.users.create("eve@example.com")
    with pytest.raises(NotFound):
        client.builds.get(other, build.id)
    with psycopg.connect(dsn) as raw:
        raw.execute("DELETE FROM builds")
    for call in (client.builds.start, client.builds.log, lambda gone: client.builds.append_log(gone, "x")):
        with pytest.raises(NotFound):
            call(build)


# Pages and statistics.


def test_pages_do_not_shift_when_builds_are_added(client: Any, project: Project) -> None:
    other = client.projects.create(client.users.get(project.user_id), path="/srv/other")
    builds = [client.builds.create(project) for _ in range(7)][::-1]
    client.builds.create(other)
    seen = client.builds.list(project, limit=3)
    while True:
        newer = client.builds.create(project)
        page = client.builds.list(project, limit=3, before=seen[-1])
        if not page:
            break
        assert newer not in page
        seen += page
    assert seen == builds
    assert client.builds.list(project, limit=2, before=builds[1].id) == builds[2:4]
    # A page after a build has the builds next to it, not the newest ones.
    assert client.builds.list(project, limit=2, after=builds[4]) == builds[2:4]
    assert client.builds.list(project, limit=1, after=newer) == []


def test_a_list_can_be_of_one_status(client: Any, project: Project) -> None:
    failed, running = build_in(client, project, "failed"), build_in(client, project, "running")
    assert client.builds.list(project, status="failed") == [failed]
    assert client.builds.list(project, status="running") == [running]
    assert client.builds.list(project) == [running, failed]


def test_statistics_count_and_measure(client: Any, project: Project, dsn: str) -> None:
    empty = client.builds.stats(project)
    assert (empty.total, empty.success_rate, empty.duration_p50) == (0, None, None)
    for seconds in (1, 2, 3, 4):
        build = build_in(client, project, "succeeded")
        with psycopg.connect(dsn) as raw:
            raw.execute(
                "UPDATE builds SET finished_at = started_at + make_interval(secs => %s) WHERE id = %s",
                (seconds, build.id),
            )
    build_in(client, project, "failed")
    build_in(client, project, "running")
    build_in(client, project, "queued")
    stats = client.builds.stats(project)
    assert (stats.total, stats.queued, stats.running, stats.succeeded, stats.failed) == (7, 1, 1, 4, 1)
    assert stats.success_rate == Decimal("0.8")
    # The failed build never ran, so it has no duration.
    assert (stats.duration_p50, stats.duration_p95) == (timedelta(seconds=2.5), timedelta(seconds=3.85))


def test_statistics_of_the_builds_since_a_moment(client: Any, project: Project) -> None:
    build_in(client, project, "failed")
    newest = build_in(client, project, "succeeded")
    assert client.builds.stats(project, since=newest.created_at).total == 1
    assert client.builds.stats(project, since=newest.created_at).success_rate == 1
    assert client.builds.stats(project, since=newest.created_at + timedelta(seconds=1)).total == 0
    with pytest.raises(InvalidInput, match="since"):
        client.builds.stats(project, since=datetime(2026, 1, 1))  # noqa: DTZ001  # the naive time must be refused


def test_health_of_a_project_is_an_object(client: Any, project: Project) -> None:
    build_in(client, project, "succeeded")
    build_in(client, project, "failed")
    health = client.projects.health(project)
    assert (health.name, health.builds_total, health.success_rate) == ("app", 2, Decimal("0.5"))
    assert (health.last_build_status, health.has_memory) == ("failed", False)
    client.memory.snapshot(project, "CLAUDE.md", b"# Rules")
    assert client.projects.health(project).memory_bytes == 7
    with pytest.raises(NotFound):
        client.projects.health(_elsewhere(project))


def _elsewhere(project: Project) -> Project:
    from attrs import evolve

    return evolve(project, id=UUID(int=7))


def test_what_is_no_id_is_named(client: Any) -> None:
    user = client.users.create("ada@example.com")
    with pytest.raises(InvalidInput, match=r'an id must be a UUID, got "nonsense"') as refused:
        client.builds.get(user, "nonsense")
    assert refused.value.field == "id"
