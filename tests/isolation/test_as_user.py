"""Operations of a tenant on its own rows work under row-level security, with both clients and both kinds of login."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from attacks import silent
from attrs import evolve
from tenants import settle_in

from atlas_sdk import (
    AlreadyExists,
    AsyncAtlas,
    Atlas,
    AtlasError,
    InvalidInput,
    InvalidToken,
    NotPermitted,
    PortsExhausted,
    QuotaExceeded,
)

#: Make a login act as the role atlas_app in every session.
AS_APPLICATION = "&options=-c%20role%3Datlas_app"


@pytest.fixture(params=["owner", "application"])
def login(request: pytest.FixtureRequest, dsn: str) -> str:
    """Return the DSN of the tables' owner, who changes to atlas_app, or of a login that always acts as atlas_app."""
    return dsn if request.param == "owner" else dsn + AS_APPLICATION


@pytest.fixture
def outside(atlas: Atlas) -> Atlas:
    """Return a client of the owner, which prepares rows and looks at the result."""
    return atlas


@pytest.mark.every_server
def test_a_tenant_lives_behind_the_wall(outside: Atlas, login: str, tmp_path: Any) -> None:
    user = outside.users.create("ada@example.com", plan="pro")
    with Atlas.open(login) as client:
        tenant = client.as_user(user).with_context(ip="192.0.2.7")
        project = tenant.projects.create(user, path=str(tmp_path), name="app")
        (tmp_path / "CLAUDE.md").write_bytes(b"# one\n")
        tenant.memory.capture(project)
        tenant.memory.checkpoint(project, "before")
        (tmp_path / "CLAUDE.md").write_bytes(b"# two\n")
        tenant.memory.capture(project)
        tenant.memory.restore(project, "before")
        assert (tmp_path / "CLAUDE.md").read_bytes() == b"# one\n"
        build = tenant.builds.start(tenant.builds.create(project))
        tenant.builds.append_log(build, "done\n")
        tenant.builds.succeed(build)
        preview = tenant.previews.allocate_port(tenant.previews.create(project, host="ada.example.com"))
        tenant.previews.stop(preview)
        with tenant.quotas.guard(user, tokens=100) as guard:
            guard.settle(tokens=60)
        with tenant.quotas.guard(user, tokens=100, lease=True) as guard:
            guard.settle(tokens=40)
        with tenant.quotas.slot(user):
            assert tenant.quotas.usage(user).slots_held == 1
        held = tenant.quotas.reserve(user, tokens=10)
        tenant.quotas.settle(user, held.id, tokens=5)
        tenant.quotas.hit(user)
        with tenant.transaction() as tx:
            tx.events.log("app.noted", user=user)
            tx.usage.log(user, kind="container_minutes", amount=2, project=project)
        assert tenant.projects.health(project).builds_succeeded == 1
        assert tenant.users.usage_summary(user).project_count == 1
    assert outside.quotas.usage(user).tokens_used == 105
    assert outside.quotas.verify(user).balanced
    assert not outside.memory.verify(user).broken
    types = [event.type for event in outside.events.search(user)]
    assert {"app.noted", "project.created", "build.succeeded"} <= set(types)
    assert {event.ip for event in outside.events.search(user, event_type="project.created")} == {"192.0.2.7"}


@pytest.mark.every_server
def test_a_tenant_of_an_asyncio_client(outside: Atlas, login: str) -> None:
    user, other = outside.users.create("ada@example.com"), outside.users.create("bob@example.com")
    theirs = outside.projects.create(other, path="/srv/bob")

    async def live() -> None:
        async with AsyncAtlas.open(login) as client:
            tenant = client.as_user(user)
            project = await tenant.projects.create(user, path="/srv/ada")
            assert await tenant.memory.snapshot(project, "CLAUDE.md", b"# one\n") is not None
            assert await tenant.memory.snapshot(project, "CLAUDE.md", b"# one\n") is None
            assert [found.id for found in await tenant.projects.list(user)] == [project.id]
            with pytest.raises(NotPermitted):
                await tenant.memory.snapshot(theirs, "CLAUDE.md", b"# one\n")
            with pytest.raises(NotPermitted):
                await tenant.projects.list(other)
            with pytest.raises(NotPermitted):
                client.as_user(user).as_user(other)
            with pytest.raises(NotPermitted):
                tenant.quotas.guard(other, tokens=1)
            async with tenant.quotas.guard(user, tokens=10) as guard:
                guard.settle(tokens=3)
            async with tenant.transaction() as tx:
                await tx.events.log("app.noted", user=user)
                with pytest.raises(NotPermitted):
                    await tx.projects.list(other)
            many = [tenant.projects.list(user) for _ in range(30)]
            assert all(len(found) == 1 for found in await asyncio.gather(*many))

    asyncio.run(live())
    assert outside.quotas.usage(user).tokens_used == 3


@pytest.mark.every_server
def test_hosts_behind_the_wall_are_taken_as_in_front_of_it(outside: Atlas, login: str, dsn: str) -> None:
    ada, bob = (outside.users.create(f"{name}@example.com") for name in ("ada", "bob"))
    mine, theirs = (outside.projects.create(user, path="/srv/app") for user in (ada, bob))
    outside.previews.create(theirs, host="bob.example.com")
    with Atlas.open(login) as client:
        tenant = client.as_user(ada)
        with pytest.raises(AlreadyExists) as refused:
            tenant.previews.create(mine, host="bob.example.com")
        assert (refused.value.kind, refused.value.name) == ("preview", "bob.example.com")
        silent(refused.value)
        first = tenant.previews.create(mine, host="ada.example.com")
        with pytest.raises(AlreadyExists):
            tenant.previews.create(mine, host="ada.example.com")
        # The claim of the deleted preview is left. It belongs to the tenant, so the tenant takes it over.
        with psycopg.connect(dsn) as raw:
            raw.execute("DELETE FROM previews WHERE id = %s", (first.id,))
        second = tenant.previews.create(mine, host="ada.example.com")
        assert outside.previews.by_host("ada.example.com") == second
        # A left claim of another tenant stays until maintenance frees it.
        with psycopg.connect(dsn) as raw:
            raw.execute("DELETE FROM previews WHERE user_id = %s", (bob.id,))
        with pytest.raises(AlreadyExists):
            tenant.previews.create(mine, host="bob.example.com")
        outside.maintenance.purge_claims()
        assert tenant.previews.create(mine, host="bob.example.com").user_id == ada.id


def test_a_host_that_is_taken_is_told_to_an_asyncio_tenant(outside: Atlas, login: str) -> None:
    ada, bob = (outside.users.create(f"{name}@example.com") for name in ("ada", "bob"))
    mine, theirs = (outside.projects.create(user, path="/srv/app") for user in (ada, bob))
    outside.previews.create(theirs, host="bob.example.com")

    async def want() -> None:
        async with AsyncAtlas.open(login) as client:
            with pytest.raises(AlreadyExists):
                await client.as_user(ada).previews.create(mine, host="bob.example.com")

    asyncio.run(want())


@pytest.mark.every_server
def test_ports_behind_the_wall_come_and_go(outside: Atlas, login: str) -> None:
    user = outside.users.create("ada@example.com")
    project = outside.projects.create(user, path="/srv/ada")
    with Atlas.open(login) as client:
        tenant = client.as_user(user)
        first, second = (tenant.previews.create(project, host=host) for host in ("a", "b"))
        one = range(20_000, 20_001)
        assert tenant.previews.allocate_port(first, ports=one).host_port == 20_000
        with pytest.raises(PortsExhausted):
            tenant.previews.allocate_port(second, ports=one)
        assert tenant.previews.set_status(first, "running", host_port=20_007).host_port == 20_007
        assert tenant.previews.allocate_port(second, ports=one).host_port == 20_000
        with pytest.raises(AlreadyExists):
            tenant.previews.set_status(second, "running", host_port=20_007)
        tenant.previews.stop(first)
        assert tenant.previews.set_status(second, "running", host_port=20_007).host_port == 20_007
        assert tenant.previews.release_port(second).host_port is None
    with psycopg.connect(outside.url) as raw:
        assert raw.execute("SELECT count(*) FROM preview_ports").fetchone() == (0,)


def test_limits_hold_behind_the_wall(outside: Atlas, login: str) -> None:
    user = outside.users.create("ada@example.com")
    outside.quotas.set_limits(user, tokens=100, requests_per_hour=1)
    with Atlas.open(login) as client:
        tenant = client.as_user(user)
        with pytest.raises(QuotaExceeded, match="tokens"):
            tenant.quotas.reserve(user, tokens=101)
        tenant.quotas.hit(user)
        with pytest.raises(QuotaExceeded, match="requests"):
            tenant.quotas.hit(user)
        with pytest.raises(QuotaExceeded, match="requests"), tenant.quotas.guard(user, tokens=1):
            pass


def test_nothing_of_the_wall_stays_on_a_connection(outside: Atlas, dsn: str) -> None:
    """One connection serves a tenant, fails for it, and serves the next tenant. Neither role nor user is left on it."""
    user, other = outside.users.create("ada@example.com"), outside.users.create("bob@example.com")
    mine = outside.projects.create(user, path="/srv/ada")
    with Atlas.open(dsn, pool_max=1) as client:
        for _ in range(3):
            assert client.as_user(user).projects.list(user) == [mine]
            with pytest.raises(NotPermitted):
                client.as_user(user).users.create("eve@example.com")
            assert client.as_user(other).projects.list(other) == []
            # The connection has the owner's rights again.
            client.users.create(f"{uuid4().hex}@example.com")
            with pytest.raises(NotPermitted), client.as_user(user).transaction() as tx:
                tx.users.create("eve@example.com")
            assert [found.email for found in client.as_user(other).users.list()] == ["bob@example.com"]


def test_threads_act_for_different_users_at_once(outside: Atlas, dsn: str) -> None:
    users = [outside.users.create(f"user{number}@example.com") for number in range(6)]
    for user in users:
        outside.projects.create(user, path=f"/srv/{user.id}")
    wrong: list[object] = []
    with Atlas.open(dsn, pool_max=3) as client:

        def act(user: Any) -> None:
            for _ in range(40):
                seen = {found.path for found in client.as_user(user).projects.list(user)}
                if seen != {f"/srv/{user.id}"}:
                    wrong.append((user, seen))

        threads = [threading.Thread(target=act, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_login_behind_the_wall_is_nobody_without_a_user(outside: Atlas, dsn: str) -> None:
    """Reads find nothing, and writes are refused."""
    user = settle_in(outside, "ada", "secret").user
    with Atlas.open(dsn + AS_APPLICATION) as client:
        assert client.projects.list(user) == []
        assert client.users.list() == []
        with pytest.raises(NotPermitted):
            client.events.log("app.noted", user=user)
        with pytest.raises(NotPermitted) as caught:
            client.quotas.reserve(user, tokens=1)
        silent(caught.value)


def test_says_what_is_missing_where_there_is_no_role(outside: Atlas, dsn: str) -> None:
    """A login that may not become atlas_app gets an error before any statement runs."""
    user = outside.users.create("ada@example.com")
    with psycopg.connect(dsn, autocommit=True) as owner:
        name = f"plain_{uuid4().hex[:12]}"
        owner.execute(psycopg.sql.SQL("CREATE ROLE {}").format(psycopg.sql.Identifier(name)))
        grant = psycopg.sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}")
        owner.execute(grant.format(psycopg.sql.Identifier(name)))
        login = f"{dsn}&options=-c%20role%3D{name}"
        with Atlas.open(login) as client, pytest.raises(NotPermitted, match="grant it to the login"):
            client.as_user(user)
        owner.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(psycopg.sql.Identifier(name)))
        owner.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(name)))


def test_joins_no_foreign_connection(outside: Atlas, dsn: str) -> None:
    user = outside.users.create("ada@example.com")
    with psycopg.connect(dsn) as connection, pytest.raises(InvalidInput):
        outside.as_user(user).join(connection)


def test_what_the_client_remembers_of_another_is_not_told(embedded: Atlas) -> None:
    """Clients of one machine share the newest versions, and an unchanged file costs no round trip.

    So the database cannot check the user, and the client must.
    """
    ada, bob = (embedded.users.create(f"{uuid4().hex}@example.com") for _ in range(2))
    theirs = embedded.projects.create(bob, path=f"/srv/{uuid4().hex}")
    assert embedded.memory.snapshot(theirs, "CLAUDE.md", b"# same\n") is not None
    assert embedded.memory.snapshot(theirs, "CLAUDE.md", b"# same\n") is None
    tenant = embedded.as_user(ada)
    for project in (theirs, evolve(theirs, user_id=ada.id)):
        with pytest.raises(AtlasError):
            tenant.memory.snapshot(project, "CLAUDE.md", b"# same\n")
        with pytest.raises(AtlasError):
            tenant.memory.delete(project, "CLAUDE.md")


def test_what_is_the_platforms_is_named(outside: Atlas, login: str) -> None:
    user = outside.users.create("ada@example.com")
    with Atlas.open(login) as client, pytest.raises(NotPermitted, match="this is the platform's") as refused:
        client.as_user(user).quotas.set_limits(user, tokens=10**9)
    assert "user_quotas" in str(refused.value)
    assert "db doctor" not in str(refused.value), "nothing is wrong with the database"


def test_a_token_is_checked_by_who_sees_sessions(outside: Atlas, dsn: str) -> None:
    """A client that cannot see sessions must not refuse the token as if the user were not signed in."""
    user = outside.users.create("ada@example.com")
    issued = outside.sessions.issue(user)
    with Atlas.open(dsn + AS_APPLICATION) as client:
        with pytest.raises(NotPermitted, match="does not see all rows"):
            client.sessions.verify(issued.token)
        tenant = client.as_user(user)
        assert tenant.sessions.verify(issued.token).user_id == user.id
        tenant.sessions.revoke_all(user)
        with pytest.raises(InvalidToken):
            tenant.sessions.verify(issued.token)
