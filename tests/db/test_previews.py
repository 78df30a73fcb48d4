"""Previews: every change of status, hosts and ports that belong to one preview, and sleep."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product
from typing import Any

import psycopg
import pytest
from previewing import events_of, preview_in
from psycopg import errors

from atlas_sdk import AlreadyExists, Atlas, IllegalTransition, InvalidInput, Preview, Project
from atlas_sdk.model.previews import LIVE, PREVIEW_STATUSES

ALLOWED = {
    *(("creating", status) for status in ("running", "failed", "stopped")),
    *(("running", status) for status in ("sleeping", "stopped", "failed")),
    *(("sleeping", status) for status in ("running", "stopped", "failed")),
}


@pytest.fixture
def project(client: Any) -> Project:
    return client.projects.create(client.users.create("ada@example.com"), path="/srv/app")


def long_ago(dsn: str, preview: Preview, seconds: int) -> None:
    with psycopg.connect(dsn) as raw:
        raw.execute(
            "UPDATE previews SET last_accessed_at = now() - make_interval(secs => %s) WHERE id = %s",
            (seconds, preview.id),
        )


def test_every_change_is_made_repeated_or_refused(client: Any, project: Project) -> None:
    for number, (before, after) in enumerate(product(PREVIEW_STATUSES, PREVIEW_STATUSES)):
        preview = preview_in(client, project, before, host=f"h{number}.example.com")
        told = events_of(client, project)
        if before == after:
            assert client.previews.set_status(preview, after) == preview
            assert events_of(client, project) == told
        elif (before, after) in ALLOWED:
            changed = client.previews.set_status(preview, after)
            assert (changed.status, changed.stopped_at is not None) == (after, after == "stopped")
            assert events_of(client, project) == [*told, f"preview.{after}"]
            assert client.previews.set_status(preview, after) == changed
            assert len(events_of(client, project)) == len(told) + 1
        else:
            with pytest.raises(IllegalTransition) as refusal:
                client.previews.set_status(preview, after)
            facts = (refusal.value.kind, refusal.value.name, refusal.value.from_status, refusal.value.to_status)
            assert facts == ("preview", str(preview.id), before, after)
            assert client.previews.get(client.users.get(project.user_id), preview.id) == preview
            assert events_of(client, project) == told


@pytest.mark.every_server
def test_the_database_itself_refuses_every_other_change(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as raw:
        user_id = raw.execute("INSERT INTO users (email) VALUES ('ada@example.com') RETURNING id").fetchone()[0]
        (project_id,) = raw.execute(
            "INSERT INTO projects (user_id, session_id, name, path) VALUES (%s, 's', 'n', '/p') RETURNING id",
            (user_id,),
        ).fetchone()
        for number, (before, after) in enumerate(product(PREVIEW_STATUSES, PREVIEW_STATUSES)):
            (preview_id,) = raw.execute(
                """INSERT INTO previews (user_id, project_id, host, status, stopped_at)
                   VALUES (%s, %s, %s, %s, CASE WHEN %s THEN now() END) RETURNING id""",
                (user_id, project_id, f"h{number}", before, before == "stopped"),
            ).fetchone()
            change = "UPDATE previews SET status = %s WHERE id = %s RETURNING status"
            if before == after or (before, after) in ALLOWED:
                assert raw.execute(change, (after, preview_id)).fetchone() == (after,)
            else:
                with pytest.raises(errors.IntegrityError) as refusal:
                    raw.execute(change, (after, preview_id))
                assert refusal.value.sqlstate == "23T01", (before, after)


def test_facts_are_kept_with_the_status_and_without(client: Any, project: Project) -> None:
    preview = client.previews.create(
        project,
        host=" App.Example.COM. ",
        container_port=3000,
        machine="m1",
        auto_sleep=False,
        sleep_after=timedelta(minutes=5),
        resource_limits={"memory": "512m"},
    )
    assert (preview.host, preview.container_port, preview.machine) == ("app.example.com", 3000, "m1")
    assert (preview.auto_sleep, preview.sleep_after) == (False, timedelta(minutes=5))
    assert (preview.resource_limits, preview.status, preview.health) == ({"memory": "512m"}, "creating", "unknown")
    running = client.previews.set_status(preview, "running", container_id="c1", network_id="n1", host_port=20001)
    assert (running.container_id, running.network_id, running.host_port) == ("c1", "n1", 20001)
    healthy = client.previews.set_status(running, "running", health="healthy")
    assert (healthy.health, healthy.container_id) == ("healthy", "c1")
    assert client.previews.set_status(running, "running", health="healthy", container_id="c1") == healthy
    assert events_of(client, project) == ["preview.created", "preview.running", "preview.changed"]
    stopped = client.previews.stop(healthy)
    assert client.previews.set_status(stopped, "stopped", container_id="other") == stopped
    assert client.previews.stop(preview) == stopped


@pytest.mark.parametrize(
    ("call", "field"),
    [
        *(
            (lambda client, project, host=host: client.previews.create(project, host=host), "host")
            for host in ["", " ", "a b", "a/b", "a:80", "é.example.com", "x" * 254, "a\0b"]
        ),
        (lambda client, project: client.previews.create(project, host="a", container_port=0), "container_port"),
        (lambda client, project: client.previews.create(project, host="a", sleep_after=timedelta()), "sleep_after"),
        (lambda client, project: client.previews.create(project, host="a", machine="m" * 201), "machine"),
        (lambda client, project: client.previews.set_status(preview_in(client, project, "creating"), "gone"), "status"),
        (
            lambda client, project: client.previews.set_status(
                preview_in(client, project, "creating"), "running", health="x"
            ),
            "health",
        ),
        (
            lambda client, project: client.previews.set_status(
                preview_in(client, project, "creating"), "running", host_port=70_000
            ),
            "host_port",
        ),
        *(
            (
                lambda client, project, ports=ports: client.previews.allocate_port(
                    preview_in(client, project, "creating"), ports=ports
                ),
                "ports",
            )
            for ports in [range(5, 5), range(9), range(1, 9, 2), range(65_530, 65_537)]
        ),
        (lambda client, project: client.previews.list(project, status="gone"), "status"),
    ],
)
def test_bad_input_is_named(atlas: Atlas, call: Any, field: str) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    with pytest.raises(InvalidInput) as failure:
        call(atlas, project)
    assert failure.value.field == field


# Hosts.


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_a_host_is_one_live_preview_of_the_whole_database(client: Any, project: Project, end: str) -> None:
    other = client.projects.create(client.users.create("eve@example.com"), path="/srv/app")
    first = preview_in(client, project, "running")
    for somebody in (project, other):
        with pytest.raises(AlreadyExists) as refusal:
            client.previews.create(somebody, host="APP.example.com")
        assert (refusal.value.kind, refusal.value.name) == ("preview", "app.example.com")
    assert client.previews.by_host("App.Example.com.") == first
    client.previews.set_status(first, end)
    assert client.previews.by_host("app.example.com") is None
    second = client.previews.create(project, host="app.example.com")
    # If the end of the first preview is set again, the second preview keeps the host.
    client.previews.set_status(first, end)
    assert client.previews.by_host("app.example.com") == second
    with pytest.raises(AlreadyExists):
        client.previews.create(other, host="app.example.com")
    client.previews.stop(second)
    assert client.previews.create(other, host="app.example.com").user_id == other.user_id


def test_of_many_who_want_a_host_one_gets_it(atlas: Atlas, dsn: str) -> None:
    projects = [
        atlas.projects.create(atlas.users.create(f"u{number}@example.com"), path="/srv/app") for number in range(8)
    ]

    def want(project: Project) -> int:
        try:
            return atlas.previews.create(project, host="app.example.com") is not None
        except AlreadyExists:
            return 0

    for _ in range(3):
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(want, projects)) == 1
        # The claim of the deleted preview stays, and in the next round all callers try to take it over.
        with psycopg.connect(dsn) as raw:
            raw.execute("DELETE FROM previews")


def test_the_host_of_a_deleted_preview_is_free(client: Any, project: Project, dsn: str) -> None:
    preview_in(client, project, "running")
    other = client.projects.create(client.users.create("eve@example.com"), path="/srv/app")
    with psycopg.connect(dsn) as raw:
        raw.execute("DELETE FROM projects WHERE id = %s", (project.id,))
    assert client.previews.create(other, host="app.example.com").user_id == other.user_id
    with psycopg.connect(dsn) as raw:
        claims = raw.execute("SELECT user_id FROM claims WHERE kind = 'preview_host'").fetchall()
    assert claims == [(other.user_id,)]


# Active previews, and sleep.


def test_the_active_preview_runs_or_else_sleeps(client: Any, project: Project) -> None:
    assert client.previews.active(project) is None
    preview_in(client, project, "creating", host="a")
    assert client.previews.active(project) is None
    older = preview_in(client, project, "running", host="b")
    newer = preview_in(client, project, "sleeping", host="c")
    assert client.previews.active(project) == older
    client.previews.stop(older)
    assert client.previews.active(project) == newer


def test_previews_are_listed_in_pages(client: Any, project: Project) -> None:
    previews = [preview_in(client, project, status, host=status) for status in PREVIEW_STATUSES][::-1]
    assert client.previews.list(project) == previews
    assert client.previews.list(project, limit=2) == previews[:2]
    assert client.previews.list(project, limit=2, before=previews[1]) == previews[2:4]
    assert client.previews.list(project, before=previews[3].id) == previews[4:]
    assert client.previews.list(project, status="failed") == [previews[0]]
    assert [preview.is_live for preview in previews] == [preview.status in LIVE for preview in previews]
    summary = client.users.usage_summary(client.users.get(project.user_id))
    assert (summary.active_previews, summary.project_count, summary.tokens_used) == (2, 1, 0)


def test_idle_previews_are_put_to_sleep_once(client: Any, project: Project, dsn: str) -> None:
    other = client.projects.create(client.users.create("eve@example.com"), path="/srv/app")
    idle = preview_in(client, project, "running", host="idle")
    foreign = preview_in(client, other, "running", host="foreign")
    busy = preview_in(client, project, "running", host="busy")
    awake = client.previews.set_status(client.previews.create(project, host="awake", auto_sleep=False), "running")
    created = preview_in(client, project, "creating", host="created")
    short = client.previews.create(project, host="short", sleep_after=timedelta(seconds=10))
    client.previews.set_status(short, "running")
    for preview, seconds in ((idle, 1900), (foreign, 2000), (busy, 1790), (awake, 9999), (created, 9999), (short, 12)):
        long_ago(dsn, preview, seconds)
    assert client.previews.put_to_sleep_idle(limit=1)[0].host == "foreign"
    slept = client.previews.put_to_sleep_idle()
    assert [(preview.host, preview.status) for preview in slept] == [("idle", "sleeping"), ("short", "sleeping")]
    assert client.previews.put_to_sleep_idle() == []
    assert events_of(client, other)[-1] == "preview.sleeping"
    # A preview that has just woken up is not idle.
    client.previews.set_status(idle, "running")
    assert client.previews.put_to_sleep_idle() == []


def test_many_may_put_to_sleep_at_once(atlas: Atlas, dsn: str) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    for number in range(12):
        long_ago(dsn, preview_in(atlas, project, "running", host=f"h{number}"), 9999)
    with ThreadPoolExecutor(4) as threads:
        slept = [one for batch in threads.map(lambda _: atlas.previews.put_to_sleep_idle(), range(4)) for one in batch]
    assert len(slept) == 12
    assert events_of(atlas, project).count("preview.sleeping") == 12


def test_a_visit_keeps_a_preview_awake(client: Any, project: Project, dsn: str) -> None:
    preview = preview_in(client, project, "running")
    user = client.users.get(project.user_id)
    long_ago(dsn, preview, 9999)
    client.previews.touch(preview)
    assert client.previews.put_to_sleep_idle() == []
    # An access within a second after the last noted one is not written again.
    long_ago(dsn, preview, -60)
    noted = client.previews.get(user, preview.id)
    client.previews.touch(preview)
    assert client.previews.get(user, preview.id) == noted
    stopped = client.previews.stop(preview)
    long_ago(dsn, preview, 9999)
    client.previews.touch(preview)
    assert client.previews.get(user, preview.id).last_accessed_at < stopped.last_accessed_at
