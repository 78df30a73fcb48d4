"""Limits on a user's projects, sessions and previews: set by plans, and enforced in SQL and for concurrent calls."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from atlas_sdk import Atlas, QuotaExceeded, SigningKeys
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User


@pytest.fixture(autouse=True)
def _keys(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    SigningKeys.generate().write(tmp_path / "keys")
    monkeypatch.setenv("ATLAS_SIGNING_KEYS", str(tmp_path / "keys"))


def add(client: Any, user: User, kind: str, number: int, project: Project | None = None) -> Any:
    """Make one more project, session or preview."""
    if kind == "projects":
        return client.projects.create(user, path=f"/srv/{user.id}/{number}")
    if kind == "sessions":
        return client.sessions.issue(user)
    return client.previews.create(project, host=f"{number}.{user.id}.example.com")


def end(client: Any, kind: str, thing: Any) -> None:
    """Delete a project, revoke a session or stop a preview."""
    if kind == "projects":
        client.projects.delete(thing)
    elif kind == "sessions":
        client.sessions.revoke(thing.session)
    else:
        client.previews.stop(thing)


KINDS = ["projects", "sessions", "previews"]


@pytest.mark.every_server
@pytest.mark.parametrize("kind", KINDS)
def test_one_more_than_the_limit_is_refused_until_one_ends(atlas: Atlas, kind: str) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path="/srv/first")
    atlas.quotas.set_limits(user, **{kind: 3})
    tenant = atlas.as_user(user)
    there = [project] if kind == "projects" else []
    while len(there) < 3:
        there.append(add(tenant, user, kind, len(there), project))
    for client in (atlas, tenant):
        with pytest.raises(QuotaExceeded) as refused:
            add(client, user, kind, 9, project)
        assert (refused.value.dimension, refused.value.asked, refused.value.remaining) == (kind, 1, 0)
        assert (refused.value.limit, refused.value.http_status, refused.value.retry_after) == (3, 403, None)
        assert f"the {kind} limit of 3 leaves 0" in str(refused.value)
    end(tenant, kind, there[-1])
    add(tenant, user, kind, 9, project)
    # Objects of another user do not count, and NULL is no limit.
    other = atlas.users.create("bob@example.com")
    add(atlas, other, kind, 1, atlas.projects.create(other, path="/srv/other"))
    atlas.quotas.set_limits(user, **{kind: None})
    add(tenant, user, kind, 10, project)


def test_an_expired_session_makes_room(atlas: Atlas) -> None:
    user = atlas.users.create("ada@example.com")
    atlas.quotas.set_limits(user, sessions=1)
    atlas.sessions.issue(user, ttl=timedelta(days=1))
    with psycopg.connect(atlas.url) as raw:
        raw.execute("UPDATE sessions SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day'")
    atlas.sessions.issue(user)
    with pytest.raises(QuotaExceeded):
        atlas.sessions.issue(user)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_many_at_once_do_not_pass_the_limit(atlas: Atlas, dsn: str, kind: str, level: str) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path="/srv/first")
    atlas.quotas.set_limits(user, **{kind: 5})
    start = threading.Barrier(8)
    outcomes: list[str] = []

    def race(number: int) -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(f"SET default_transaction_isolation = '{level}'".encode())
            connection.commit()
            # Take the transaction's snapshot before any other transaction commits.
            connection.execute("SELECT 1")
            joined = atlas.join(connection)
            start.wait()
            try:
                add(joined, user, kind, number, project)
                connection.commit()
            except Exception as problem:  # noqa: BLE001  # the assertions below distinguish the errors
                outcomes.append(type(problem).__name__)
            else:
                outcomes.append("done")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"done", "QuotaExceeded", "TransactionConflict"}
    with psycopg.connect(dsn) as raw:
        count = raw.execute(f"SELECT count(*) FROM {kind} WHERE user_id = %s".encode(), [user.id]).fetchone()
    assert count is not None
    assert count[0] <= 5, outcomes
    assert level != "read committed" or count[0] == 5, outcomes


def test_rows_added_by_one_statement_count_together(atlas: Atlas, dsn: str) -> None:
    user = atlas.users.create("ada@example.com")
    atlas.quotas.set_limits(user, projects=3)
    add_many = (
        "INSERT INTO projects (user_id, session_id, name, path)"
        " SELECT %s, n::text, 'x', '/srv/' || n FROM generate_series(1, %s) AS n"
    )
    with psycopg.connect(dsn) as raw:
        with pytest.raises(psycopg.IntegrityError) as refused, raw.transaction():
            raw.execute(add_many, (user.id, 4))
        assert refused.value.sqlstate == "23T02"
        raw.execute(add_many, (user.id, 3))


def test_limits_come_with_the_plan_and_stay_when_set_by_hand(atlas: Atlas) -> None:
    user = atlas.users.create("ada@example.com")
    plans = {plan.name: plan for plan in atlas.quotas.plans()}
    assert (plans["free"].projects, plans["free"].sessions, plans["free"].previews) == (1000, 100, 20)
    atlas.quotas.set_limits(user, projects=1)
    atlas.quotas.set_plan_limits("pro", sessions=0, projects=0)
    atlas.users.set_plan(user, "pro")
    add(atlas, user, "projects", 1)
    with pytest.raises(QuotaExceeded, match="sessions"):
        add(atlas, user, "sessions", 1)
    atlas.quotas.use_plan_limits(user)
    with pytest.raises(QuotaExceeded, match="projects"):
        add(atlas, user, "projects", 2)


def test_the_local_user_has_as_many_as_it_likes(atlas: Atlas) -> None:
    """On a laptop there are no other users who need room."""
    user = atlas.users.local()
    with psycopg.connect(atlas.url) as raw:
        row = raw.execute(
            "SELECT projects_limit, sessions_limit, previews_limit FROM user_quotas WHERE user_id = %s", [user.id]
        )
        assert row.fetchone() == (None, None, None)
    atlas.users.set_plan(user, "pro")
    with psycopg.connect(atlas.url) as raw:
        assert raw.execute("SELECT projects_limit FROM user_quotas WHERE user_id = %s", [user.id]).fetchone() == (None,)


def test_a_refused_project_leaves_nothing(atlas: Atlas) -> None:
    user = atlas.users.create("ada@example.com")
    atlas.quotas.set_limits(user, projects=0)
    with pytest.raises(QuotaExceeded):
        atlas.projects.create(user, path="/srv/app", session_id="mine")
    # The session id of the refused project is still free.
    atlas.quotas.set_limits(user, projects=1)
    assert atlas.projects.create(user, path="/srv/app", session_id="mine").session_id == "mine"
