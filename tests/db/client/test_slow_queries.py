"""Slow statements are logged with their plans, and never with a value."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from client_adapter import Open
from patience import PATIENCE_S

from atlas_sdk import Atlas

_LOGGER = "atlas_sdk.queries"


def plans(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("plan of")]


def settle(client: Any) -> None:
    """Wait until every requested plan is logged."""
    slow = client._view._config.slow
    with slow._changed:
        thread = slow._thread
        slow._closed = True
        slow._changed.notify()
    if thread is not None:
        thread.join(PATIENCE_S)
    slow._closed = False


@pytest.mark.every_server
def test_a_slow_statement_is_told_with_its_plan(open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    client = open_client(dsn, slow_query_s=0.0)
    user = client.users.create("ada@example.com", name="Ada")
    settle(client)
    caplog.clear()
    client.users.get(user.id)
    settle(client)
    told = [record for record in caplog.records if record.name == _LOGGER]
    assert {record.levelno for record in told} == {logging.WARNING}
    assert told[0].getMessage().startswith("slow: users.get took ")
    assert told[0].getMessage().endswith(" ms, 1 rows")
    assert plans(caplog) == [told[1].getMessage()]
    assert "users" in plans(caplog)[0]
    assert "(cost=" in plans(caplog)[0]
    assert "$1" in plans(caplog)[0]


@pytest.mark.every_server
def test_no_value_gets_into_the_log(
    open_client: Open, dsn: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = open_client(dsn, slow_query_s=0.0, query_log=True)
    user = client.users.create("grace@secret.example", name="Topsecret Hopper", plan="pro")
    project = client.projects.create(user, path=folder, session_id="session-secret", language="cobolsecret")
    client.memory.snapshot(project, "CLAUDE.md", b"content-secret")
    client.memory.read(project, "CLAUDE.md")
    client.quotas.set_limits(user, tokens=987_654)
    held = client.quotas.reserve(user, tokens=4321, holder="holdersecret", meta={"k": "metasecret"})
    client.quotas.settle(user, held.id, tokens=4321)
    client.events.log("type.secret", user=user, meta={"k": "metasecret"})
    client.events.search(user, text="metasecret")
    client.usage.totals(user)
    client.users.usage_summary(user)
    client.users.by_email("grace@secret.example")
    client.notify("channelsecret", "payloadsecret")
    settle(client)
    lines = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records)
    assert len(plans(caplog)) > 15
    values = [str(user.id), str(project.id), str(held.id), user.id.hex, str(folder), "987654", "4321"]
    values += ["secret.example", "Topsecret", "session-secret", "cobolsecret", "content-secret", "holdersecret"]
    values += ["metasecret", "type.secret", "channelsecret", "payloadsecret"]
    assert [value for value in values if value in lines] == []


def test_every_statement_that_can_be_explained_is(
    open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = open_client(dsn, slow_query_s=0.0)
    user = client.users.create("ada@example.com")
    client.quotas.usage(user)
    client.projects.list(user)
    client.events.search(user, text="a")
    client.quotas.forecast(user)
    settle(client)
    assert [record.getMessage() for record in caplog.records if record.getMessage().startswith("no plan")] == []


def test_a_procedure_is_told_without_a_plan(open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    client = open_client(dsn, slow_query_s=0.0)
    user = client.users.create("ada@example.com")
    settle(client)
    caplog.clear()
    client.quotas.hit(user)
    settle(client)
    assert any(record.getMessage().startswith("slow: quotas.hit took") for record in caplog.records)
    assert not any("quotas.hit" in plan for plan in plans(caplog))


def test_a_plan_is_told_once_a_minute(open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    client = open_client(dsn, slow_query_s=0.0)
    user = client.users.create("ada@example.com")
    for _ in range(5):
        client.users.get(user.id)
    settle(client)
    slow = [record for record in caplog.records if record.getMessage().startswith("slow: users.get took")]
    assert len(slow) == 5
    assert len([plan for plan in plans(caplog) if plan.startswith("plan of users.get:")]) == 1
    told = client._view._config.slow._explained_at
    told["users.get"] -= 61
    client.users.get(user.id)
    settle(client)
    assert len([plan for plan in plans(caplog) if plan.startswith("plan of users.get:")]) == 2


def test_fast_statements_are_not_told(open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    client = open_client(dsn, slow_query_s=3600.0)
    client.users.create("ada@example.com")
    assert caplog.records == []


def test_it_is_off_unless_asked_for(open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    client = open_client(dsn)
    client.users.list()
    assert client._view._config.slow is None
    assert caplog.records == []


def test_a_plan_that_cannot_be_had_disturbs_nobody(
    open_client: Open, dsn: str, migrated: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The table is locked, so even its plan cannot be made."""
    caplog.set_level(logging.DEBUG, logger=_LOGGER)
    client = open_client(dsn, slow_query_s=0.0)
    user = client.users.create("ada@example.com")
    settle(client)
    with psycopg.connect(dsn) as other:
        client.users.list()
        other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        settle(client)
        client._view._config.slow._explained_at.clear()
        client._view._config.slow._request_plan(_query("users", "get", user_id=user.id))
        settle(client)
        other.rollback()
    missing = [record for record in caplog.records if record.getMessage() == "no plan of users.get"]
    assert [record.levelno for record in missing] == [logging.DEBUG]
    assert client.users.get(user.id) == user


def _query(topic: str, name: str, **parameters: object) -> Any:
    from atlas_sdk._plan import Query
    from atlas_sdk._sql import statements

    return Query(statements(topic)[name], parameters)


def test_a_statement_that_a_time_limit_ended_is_told(
    open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_client(dsn, slow_query_s=60.0, statement_timeout_s=0.05)
    user = client.users.create("ada@example.com")
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1 FROM users WHERE id = %s FOR UPDATE", (user.id,))
        with pytest.raises(Exception, match="statement_timeout"):
            client.users.update(user, name="Grace")
        other.rollback()
    settle(client)
    assert caplog.records[0].getMessage() == "slow: users.rename took longer than a time limit allows"
    assert [plan.partition(":")[0] for plan in plans(caplog)] == ["plan of users.rename"]


def test_the_thread_ends_with_the_client(dsn: str) -> None:
    client = Atlas.open(dsn, slow_query_s=0.0)
    client.users.list()
    slow = client._view._config.slow
    assert slow is not None
    client.close()
    assert slow._thread is None or not slow._thread.is_alive()


@pytest.mark.parametrize("server", ["system"], indirect=True)
def test_plans_come_through_a_pooler(
    open_client: Open, pgbouncer: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    client = open_client(pgbouncer("transaction", pool_size=2), slow_query_s=0.0)
    client.users.list()
    client.users.by_email("ada@example.com")
    settle(client)
    assert {"plan of users.list", "plan of users.by_email"} <= {plan.partition(":")[0] for plan in plans(caplog)}
