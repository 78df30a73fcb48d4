"""Ports of previews: each belongs to one live preview on a machine, and becomes free again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from previewing import events_of, preview_in
from psycopg import errors

from atlas_sdk import AlreadyExists, Atlas, InvalidInput, NotFound, PortsExhausted, Preview, Project
from atlas_sdk._plan import Plan, Query
from atlas_sdk._sql import Statement
from atlas_sdk.ops import ports


@pytest.fixture
def project(client: Any) -> Project:
    return client.projects.create(client.users.create("ada@example.com"), path="/srv/app")


def test_every_preview_gets_a_port_of_its_own_until_there_is_none(atlas: Atlas) -> None:
    users = [atlas.users.create(f"u{number}@example.com") for number in range(4)]
    projects = [atlas.projects.create(user, path="/srv/app") for user in users]
    previews = [atlas.previews.create(projects[n % 4], host=f"h{n}.example.com") for n in range(33)]
    ports = range(20_000, 20_032)
    with ThreadPoolExecutor(32) as threads:
        got = list(threads.map(lambda one: atlas.previews.allocate_port(one, ports=ports), previews[:32]))
    assert sorted(preview.host_port for preview in got) == list(ports)
    with pytest.raises(PortsExhausted, match="20000 to 20031") as refusal:
        atlas.previews.allocate_port(previews[32], ports=ports)
    assert (refusal.value.first, refusal.value.last, refusal.value.machine) == (20_000, 20_031, "")
    atlas.previews.stop(previews[5])
    assert atlas.previews.allocate_port(previews[32], ports=ports).host_port == got[5].host_port


def test_one_preview_gets_one_port_however_many_ask(atlas: Atlas) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    preview = atlas.previews.create(project, host="app.example.com")
    with ThreadPoolExecutor(8) as threads:
        got = set(threads.map(lambda _: atlas.previews.allocate_port(preview).host_port, range(8)))
    assert len(got) == 1
    assert got <= set(range(20_000, 30_000))
    assert events_of(atlas, project) == ["preview.created", "preview.port_allocated"]


def test_ports_are_counted_on_each_machine(client: Any, project: Project) -> None:
    one = range(20_000, 20_001)
    first = client.previews.create(project, host="a", machine="m1")
    assert client.previews.allocate_port(first, ports=one).host_port == 20_000
    assert client.previews.allocate_port(first, ports=range(5, 9)).host_port == 20_000
    elsewhere = client.previews.create(project, host="b", machine="m2")
    assert client.previews.allocate_port(elsewhere, ports=one).host_port == 20_000
    third = client.previews.create(project, host="c", machine="m1")
    with pytest.raises(PortsExhausted, match="of m1"):
        client.previews.allocate_port(third, ports=one)


@pytest.mark.parametrize("end", ["stopped", "failed", "released", "deleted", "project", "user"])
def test_a_port_comes_back(client: Any, project: Project, dsn: str, end: str) -> None:
    one = range(20_000, 20_001)
    first = client.previews.allocate_port(client.previews.create(project, host="a"), ports=one)
    other = client.projects.create(client.users.create("eve@example.com"), path="/srv/app")
    second = client.previews.create(other, host="b")
    with pytest.raises(PortsExhausted):
        client.previews.allocate_port(second, ports=one)
    if end == "released":
        assert client.previews.release_port(first).host_port is None
        assert client.previews.release_port(first).host_port is None
        assert events_of(client, project)[-2:] == ["preview.port_allocated", "preview.port_released"]
    elif end in ("stopped", "failed"):
        assert client.previews.set_status(first, end).host_port == 20_000
    else:
        table = {"deleted": "previews", "project": "projects", "user": "users"}[end]
        key = {"deleted": first.id, "project": project.id, "user": project.user_id}[end]
        with psycopg.connect(dsn) as raw:
            raw.execute(f"DELETE FROM {table} WHERE id = %s", (key,))
    assert client.previews.allocate_port(second, ports=one).host_port == 20_000


def test_a_port_from_elsewhere_is_registered(client: Any, project: Project) -> None:
    first = client.previews.create(project, host="a")
    second = client.previews.create(project, host="b")
    client.previews.set_status(first, "running", host_port=20_000)
    with pytest.raises(AlreadyExists) as refusal:
        client.previews.set_status(second, "running", host_port=20_000)
    assert refusal.value.kind == "port"
    assert client.previews.get(client.users.get(project.user_id), second.id) == second
    with pytest.raises(PortsExhausted):
        client.previews.allocate_port(second, ports=range(20_000, 20_001))
    # A preview that moves to another port frees the old one.
    assert client.previews.set_status(first, "running", host_port=20_001).host_port == 20_001
    assert client.previews.allocate_port(second, ports=range(20_000, 20_002)).host_port == 20_000


def test_what_is_over_or_gone_gets_no_port(client: Any, project: Project, dsn: str) -> None:
    stopped = preview_in(client, project, "stopped")
    with pytest.raises(InvalidInput, match="stopped"):
        client.previews.allocate_port(stopped)
    with psycopg.connect(dsn) as raw:
        raw.execute("DELETE FROM previews")
    for call in (client.previews.allocate_port, client.previews.release_port, client.previews.stop):
        with pytest.raises(NotFound):
            call(stopped)
    with pytest.raises(NotFound):
        client.previews.get(client.users.get(project.user_id), stopped.id)


def test_allocating_while_it_stops_leaves_no_port_behind(atlas: Atlas, dsn: str) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")

    def allocate(preview: Preview) -> None:
        try:
            atlas.previews.allocate_port(preview)
        except InvalidInput:
            assert atlas.previews.by_host(preview.host) is None

    with ThreadPoolExecutor(2) as threads:
        for number in range(20):
            preview = atlas.previews.create(project, host=f"h{number}")
            both = [threads.submit(allocate, preview), threads.submit(atlas.previews.stop, preview)]
            for done in both:
                done.result()
    with psycopg.connect(dsn) as raw:
        assert raw.execute("SELECT count(*) FROM preview_ports").fetchone() == (0,)
        assert raw.execute("SELECT count(*) FROM claims WHERE kind = 'preview_host'").fetchone() == (0,)


class Read(list[Any]):
    """Rows that count how often they were iterated."""

    times = 0

    def __iter__(self) -> Iterator[Any]:
        self.times += 1
        return super().__iter__()


def test_what_lives_is_read_once_however_many_ports_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an answer for a full machine of 10,000 ports would take minutes."""
    user_id, ids = uuid4(), [uuid4() for _ in range(500)]
    living = Read(ids[1:])
    taken = [ports._Taken(port=20_000 + n, user_id=user_id, preview_id=one) for n, one in enumerate(ids)]

    def answers(statement: Statement, model: object, /, **parameters: object) -> Plan[list[Any]]:
        yield Query(statement, parameters)
        return living if statement.name.endswith("living") else taken

    monkeypatch.setattr(ports, "many", answers)
    sweep = ports._sweep("", 20_000, 20_499)
    asked: Any = [next(sweep), sweep.send(None), sweep.send(None)]
    assert asked[2].parameters == {"machine": "", "ports": [20_000], "preview_ids": [ids[0]]}
    assert living.times <= 2


def test_the_function_gives_a_live_preview_one_port(atlas: Atlas, migrated: psycopg.Connection[Any]) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path="/srv/app")
    preview = atlas.previews.create(project, host="a", machine="m1")
    take = "SELECT preview_port_take(%s, %s, %s, %s, %s)"

    def try_to(machine: str, first: int, last: int) -> Any:
        asked = (project.user_id, preview.id, machine, first, last)
        return migrated.execute(take, asked).fetchone()[0]  # type: ignore[index]  # the function returns a row

    assert try_to("m1", 20_000, 20_000) == 20_000
    # A preview keeps its port if no other port is free, and moves otherwise.
    assert try_to("m1", 20_000, 20_000) is None
    assert try_to("m1", 20_001, 20_001) == 20_001
    assert migrated.execute("SELECT machine, port FROM preview_ports").fetchall() == [("m1", 20_001)]
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        try_to("m2", 20_000, 20_000)
    atlas.previews.stop(preview)
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        try_to("m1", 20_000, 20_000)
    assert migrated.execute("SELECT count(*) FROM preview_ports").fetchone() == (0,)


def test_ports_of_other_tenants_are_felt_but_not_seen(dsn: str, atlas: Atlas) -> None:
    previews = [
        atlas.previews.create(atlas.projects.create(atlas.users.create(f"u{n}@example.com"), path="/p"), host=f"h{n}")
        for n in range(2)
    ]
    atlas.previews.allocate_port(previews[0], ports=range(20_000, 20_001))
    with psycopg.connect(dsn, autocommit=True) as raw:
        role = f"atlas_test_{previews[0].id.hex}"
        raw.execute(f"CREATE ROLE {role} NOLOGIN")
        try:
            raw.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
            with raw.transaction():
                raw.execute(f"SET LOCAL ROLE {role}")
                raw.execute(f"SET LOCAL atlas.user_id = '{previews[1].user_id}'")
                take = "SELECT preview_port_take(%s, %s, '', 20000, %s)"
                asked = (previews[1].user_id, previews[1].id)
                assert raw.execute(take, (*asked, 20_000)).fetchone() == (None,)
                assert raw.execute(take, (*asked, 20_001)).fetchone() == (20_001,)
                assert raw.execute("SELECT port FROM preview_ports").fetchall() == [(20_001,)]
        finally:
            raw.execute(f"DROP OWNED BY {role}")
            raw.execute(f"DROP ROLE {role}")
