"""The audit trail: search, pages, and the origin of requests."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any

import psycopg
import pytest

from atlas_sdk import AsyncAtlas, Atlas, InvalidInput, User


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com")


def newest(client: Any, user: User) -> tuple[str, str | None, str | None]:
    (event,) = client.events.recent(user, limit=1)
    return event.type, event.ip, event.user_agent


# Search.


def test_events_are_found_by_all_that_is_known_of_them(client: Any, user: User) -> None:
    project = client.projects.create(user, path="/srv/app")
    client.events.log("deploy.done", user=user, project=project, meta={"commit": "ABC%_1", "note": "Größe"})
    client.events.log("deploy.failed", user=user)
    other = client.users.create("eve@example.com")
    client.events.log("deploy.done", user=other)

    def types(**ask: Any) -> list[str]:
        return [event.type for event in client.events.search(user, **ask)]

    assert types() == ["deploy.failed", "deploy.done", "project.created", "user.created"]
    assert types(event_type="deploy.") == ["deploy.failed", "deploy.done"]
    assert types(event_type="deploy.done") == ["deploy.done"]
    # A prefix is text, not a pattern.
    assert types(event_type="deploy_") == types(event_type="%") == []
    assert types(project=project) == ["deploy.done", "project.created"]
    assert types(text="abc%_") == types(text="GRÖSSE".replace("SS", "ß")) == ["deploy.done"]
    assert types(text="abc_") == []
    assert types(event_type="deploy.", project=project, text="abc", limit=1) == ["deploy.done"]


def test_times_include_the_first_and_exclude_the_last(client: Any, user: User) -> None:
    for number in range(4):
        client.events.log(f"tick.{number}", user=user)
    ticks = client.events.search(user, event_type="tick.")[::-1]
    found = client.events.search(user, since=ticks[1].created_at, until=ticks[3].created_at, event_type="tick.")
    assert [event.type for event in found] == ["tick.2", "tick.1"]
    assert client.events.search(user, since=ticks[3].created_at + timedelta(microseconds=1)) == []


def test_pages_do_not_shift_when_events_are_added(client: Any, user: User, dsn: str) -> None:
    with psycopg.connect(dsn) as raw:
        # Events of one transaction have the same time, so the id decides their order.
        raw.execute(
            "INSERT INTO events (user_id, type) SELECT %s, 'tick.' || n FROM generate_series(1, 7) AS n", (user.id,)
        )
    every = client.events.search(user)
    assert len(every) == 8
    seen = client.events.search(user, limit=3)
    while page := client.events.search(user, limit=3, before=seen[-1]):
        client.events.log("later.event", user=user)
        seen += page
    assert seen == every
    for limit in (0, 10_001):
        with pytest.raises(InvalidInput, match="limit"):
            client.events.recent(user, limit=limit)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"since": datetime(2026, 1, 1)}, "since"),  # noqa: DTZ001  # the naive time must be refused
        ({"until": datetime(2026, 1, 1)}, "until"),  # noqa: DTZ001
        ({"text": "a\0b"}, "text"),
        ({"event_type": "x" * 101}, "event_type"),
    ],
)
def test_bad_input_is_named(client: Any, user: User, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        client.events.search(user, **bad)
    assert failure.value.field == field


# The origin of requests.


def test_what_a_copy_does_is_audited_with_its_origin(client: Any, user: User) -> None:
    request = client.with_context(ip="203.0.113.9", user_agent="curl/8")
    project = request.projects.create(user, path="/srv/app")
    assert newest(client, user) == ("project.created", "203.0.113.9", "curl/8")
    request.builds.start(request.builds.create(project))
    assert newest(client, user) == ("build.started", "203.0.113.9", "curl/8")
    request.quotas.set_limits(user, tokens=5)
    assert newest(client, user) == ("quota.limits_changed", "203.0.113.9", "curl/8")
    request.memory.checkpoint(project, "empty")
    assert newest(client, user)[1:] == ("203.0.113.9", "curl/8")
    # The original client has no origin.
    client.events.log("own.event", user=user)
    assert newest(client, user) == ("own.event", None, None)


def test_copies_nest_and_keep_what_they_are_not_given(client: Any, user: User) -> None:
    outer = client.with_context(ip="203.0.113.9")
    inner = outer.with_context(user_agent="curl/8")
    other = inner.with_context(ip=ip_address("2001:db8::1"))
    for number, (copy, origin) in enumerate(
        [(inner, ("203.0.113.9", "curl/8")), (other, ("2001:db8::1", "curl/8")), (outer, ("203.0.113.9", None))]
    ):
        copy.events.log(f"deploy.{number}", user=user)
        assert newest(client, user) == (f"deploy.{number}", *origin)


def test_the_end_of_a_copy_leaves_the_client_open(client: Any, user: User) -> None:
    request = client.with_context(ip="203.0.113.9")
    request.close()
    request.close()
    assert client.users.get(user.id) == user
    assert request.users.get(user.id) == user
    assert request.health().ok


@pytest.mark.parametrize("ip", ["", "localhost", "203.0.113.9:80", "10.0.0.0/8", "1.2.3", "[::1]", "203.0.113.9 ", 7.5])
def test_what_is_no_address_is_refused(client: Any, ip: Any) -> None:
    with pytest.raises(InvalidInput) as failure:
        client.with_context(ip=ip)
    assert failure.value.field == "ip"


def test_an_event_of_ones_own_may_say_where_it_came_from(client: Any, user: User) -> None:
    request = client.with_context(ip="203.0.113.9", user_agent="curl/8")
    request.events.log("deploy.done", user=user, ip="198.51.100.7")
    assert newest(client, user) == ("deploy.done", "198.51.100.7", "curl/8")
    client.events.log("deploy.done", user=user, user_agent="wget/1")
    assert newest(client, user) == ("deploy.done", None, "wget/1")
    with pytest.raises(InvalidInput) as failure:
        client.events.log("deploy.done", user=user, ip="localhost")
    assert failure.value.field == "ip"


def test_what_strangers_send_is_made_to_fit(client: Any, user: User) -> None:
    request = client.with_context(ip="fe80::1%eth0", user_agent="agent\0\x1b[2J" + "x" * 5000)
    request.events.log("deploy.done", user=user)
    _, ip, agent = newest(client, user)
    assert ip == "fe80::1"
    assert agent is not None
    assert agent.startswith("agent\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2Jxxx")
    assert len(agent) == 1024


def test_a_transaction_of_a_copy_has_its_origin(atlas: Atlas) -> None:
    user = atlas.users.create("ada@example.com")
    with atlas.with_context(ip="203.0.113.9").transaction() as tx:
        tx.projects.create(user, path="/srv/app")
    assert newest(atlas, user) == ("project.created", "203.0.113.9", None)
    with pytest.raises(ZeroDivisionError), atlas.with_context(ip="203.0.113.9").transaction() as tx:
        tx.events.log("never.happened", user=user)
        1 / 0  # noqa: B018
    assert newest(atlas, user)[0] == "project.created"


async def _both_ways(dsn: str) -> None:
    client = AsyncAtlas.open(dsn)
    # The copy is made before the client connects. Entering it connects both.
    request = client.with_context(ip="203.0.113.9")
    with pytest.raises(InvalidInput, match="connect first"):
        await request.users.local()
    async with request as same:
        assert same is request
        user = await client.users.create("ada@example.com")
        async with request.transaction() as tx:
            await tx.projects.create(user, path="/srv/app")
        (event,) = await client.events.recent(user, limit=1)
        assert (event.type, event.ip) == ("project.created", "203.0.113.9")
    assert await client.users.get(user.id) == user
    await client.close()
    with pytest.raises(InvalidInput, match="closed"):
        await request.users.get(user.id)


def test_a_copy_of_an_asyncio_client_connects_with_it(dsn: str) -> None:
    import asyncio

    asyncio.run(_both_ways(dsn))


def test_a_copy_shares_connections_guards_and_what_is_known(dsn: str) -> None:
    with Atlas.open(dsn, pool_max=1) as atlas:
        user = atlas.users.create("ada@example.com")
        request = atlas.with_context(ip="203.0.113.9")
        project = request.projects.create(user, path="/srv/app")
        assert request.memory.snapshot(project, "CLAUDE.md", b"# Rules") is not None
        assert atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules") is None
        lease = request.quotas.lease(user, tokens=1000, requests=10)
        with lease.guard(tokens=10) as guard:
            guard.settle(tokens=10)
        # A copy for a request needs no close. Its lease ends with the client.
        del request, lease, guard
    with Atlas.open(dsn) as atlas:
        usage = atlas.quotas.usage(user)
        assert (usage.tokens_used, usage.tokens_held) == (10, 0)
    with pytest.raises(InvalidInput, match="closed"):
        project_of_closed(atlas)


def project_of_closed(atlas: Atlas) -> None:
    atlas.with_context(ip="203.0.113.9").users.local()


@pytest.mark.parametrize("text", ['say "hi"', "C:\\tmp", 'hi"\n', "\x01", "naïve\u2028", "'; --", "%s"])
def test_any_text_is_found_as_it_was_told(client: Any, user: User, text: str) -> None:
    client.events.log("it.was", user=user, meta={"told": f"They {text}, once."})
    client.events.log("it.was", user=user, meta={"told": "nothing"})
    (found,) = client.events.search(user, text=text)
    assert found.meta["told"] == f"They {text}, once."


def test_what_json_is_made_of_is_no_text(client: Any, user: User) -> None:
    client.events.log("it.was", user=user, meta={"told": "nothing"})
    assert client.events.search(user, text='{"') == client.events.search(user, text='": "') == []
