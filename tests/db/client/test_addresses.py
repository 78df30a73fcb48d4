"""The address to which a client connects, and the errors when it cannot."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from atlas_sdk import AsyncAtlas, Atlas, AuthenticationFailed, DatabaseUnreachable, InvalidInput
from atlas_sdk.dsn import place


def test_health_tells_what_the_server_is(client: Any) -> None:
    health = client.health()
    assert health.ok
    assert health.server_version.startswith("18")
    assert health.latency_ms > 0
    assert health.database_bytes > 2**20


def test_a_client_must_be_connected() -> None:
    with pytest.raises(InvalidInput, match="async with"):
        asyncio.run(AsyncAtlas.open("postgresql:///x").users.local())


def test_a_dead_server_is_one_clear_sentence() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1:1/atlas.*is the server running") as failure:
        Atlas.open("postgresql://ada:secret@127.0.0.1:1/atlas")
    assert "secret" not in str(failure.value)
    assert "\n" not in str(failure.value)
    with pytest.raises(DatabaseUnreachable):
        asyncio.run(AsyncAtlas.open("postgresql://ada:secret@127.0.0.1:1/atlas").connect())


def test_a_missing_database_is_named(dsn: str) -> None:
    with pytest.raises(DatabaseUnreachable, match="that database does not exist"):
        Atlas.open(dsn.replace("/test_", "/gone_"))


def test_an_unknown_role_is_an_authentication_failure(dsn: str) -> None:
    with pytest.raises((AuthenticationFailed, DatabaseUnreachable)) as failure:
        Atlas.open(dsn.replace("user=atlas", "user=somebody"))
    assert failure.value.exit_code == 5


@pytest.mark.parametrize("dsn", ["nonsense", "postgresql://[", "host='"])
def test_a_malformed_dsn_is_an_error_of_ours(dsn: str) -> None:
    with pytest.raises((InvalidInput, DatabaseUnreachable)):
        Atlas.open(dsn)


def test_a_dsn_is_shown_without_secrets() -> None:
    shown = place("postgresql://ada:secret@db.example:6000/atlas?sslpassword=hidden")
    assert shown == "ada@db.example:6000/atlas"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ATLAS_DATABASE_URL name a server that does not exist, so that its use causes an error."""
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://ada@127.0.0.1:1/production")


def opened(kind: type[Any], *where: Any, **options: Any) -> str:
    """Open a client of either kind; return the URL of its database."""
    if kind is Atlas:
        with Atlas.open(*where, **options) as client:
            return client.url

    async def go() -> str:
        async with AsyncAtlas.open(*where, **options) as client:
            return client.url

    return asyncio.run(go())


@pytest.mark.parametrize("kind", [Atlas, AsyncAtlas])
def test_a_client_without_an_address_obeys_the_environment(
    kind: type[Any], dsn: str, atlas_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(atlas_home))
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    assert opened(kind) == opened(kind, None, home=None) == dsn
    monkeypatch.setenv("ATLAS_DATABASE_URL", "")
    assert opened(kind) != dsn


@pytest.mark.parametrize("kind", [Atlas, AsyncAtlas])
@pytest.mark.usefixtures("elsewhere")
def test_an_address_or_a_home_that_is_given_beats_the_environment(kind: type[Any], dsn: str, atlas_home: Path) -> None:
    assert opened(kind, dsn) == dsn
    assert opened(kind, home=atlas_home)
    with pytest.raises(DatabaseUnreachable, match="production"):
        opened(kind)
