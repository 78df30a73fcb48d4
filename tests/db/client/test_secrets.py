"""A password is never shown in errors, logs, tracebacks or the text of an object, in whatever way it was given."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from client_adapter import AwaitedClient, Open
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, AtlasError
from atlas_sdk.config import Settings

_WRONG = "Wr0ng1/Pa55x@Sekr3t"

Give = Callable[..., str]


@pytest.fixture(params=["url", "query", "keyword", "PGPASSWORD", "service", "passfile"])
def give(request: pytest.FixtureRequest, tls_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Give:
    """Return a function that returns a DSN for a password. Each run of a test gives the password in another way."""

    def plain(password: str | None = None, *, port: int | None = None, dbname: str = "postgres") -> str:
        secret = password or tls_server.password
        place = f"localhost:{port or tls_server.port}/{dbname}"
        words = f"host=localhost port={port or tls_server.port} dbname={dbname} user=atlas sslmode=require"
        if request.param == "url":
            return f"postgresql://atlas:{quote(secret, safe='')}@{place}?sslmode=require"
        if request.param == "query":
            return f"postgresql://{place}?user=atlas&sslmode=require&password={quote(secret, safe='')}"
        if request.param == "keyword":
            return f"{words} password='{secret}'"
        if request.param == "PGPASSWORD":
            monkeypatch.setenv("PGPASSWORD", secret)
            return words
        if request.param == "passfile":
            escaped = secret.replace(":", "\\:")
            (tmp_path / "pgpass").write_text(f"*:*:*:atlas:{escaped}\n")
            (tmp_path / "pgpass").chmod(0o600)
            return f"{words} passfile={tmp_path / 'pgpass'}"
        lines = "\n".join(words.split(" "))
        (tmp_path / "services").write_text(f"[atlas]\n{lines}\npassword={secret}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        return "service=atlas"

    return plain


def shown(thing: object, *, depth: int = 6, seen: set[int] | None = None) -> str:
    """Return every text that an object and its parts show."""
    seen = set() if seen is None else seen
    if id(thing) in seen or depth == 0 or isinstance(thing, (str, bytes, int, float, type)):
        return ""
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts = list(thing)
    else:
        parts = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
        if attrs.has(type(thing)):
            parts += [getattr(thing, field.name) for field in attrs.fields(type(thing))]
    own = f"{thing!r}\n{thing}\n" if type(thing).__module__.startswith(("atlas_sdk", "psycopg")) else ""
    return own + "".join(shown(part, depth=depth - 1, seen=seen) for part in parts)


def everything_said(caplog: pytest.LogCaptureFixture) -> str:
    formatter = logging.Formatter("%(name)s %(message)s")
    return "\n".join(formatter.format(record) for record in caplog.records)


def pieces(secret: str) -> list[str]:
    return [secret, quote(secret, safe=""), quote(secret), *(part for part in secret.replace("@", "/").split("/"))]


def assert_silent(text: str, secret: str) -> None:
    assert [piece for piece in pieces(secret) if piece in text] == []


def test_a_client_and_its_parts_do_not_show_it(
    open_client: Open, give: Give, tls_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = open_client(give(), migrate=True, query_log=True, slow_query_s=0.0)
    client.users.list()
    opened = client._target if isinstance(client, AwaitedClient) else client
    text = shown(opened) + repr(client.health()) + repr(client.pool()) + repr(client.listen("a"))
    assert "ConnectionConfig" in text
    assert "Opened" in text
    assert_silent(text, tls_server.password)
    assert_silent(everything_said(caplog), tls_server.password)


@pytest.mark.parametrize("broken", ["password", "port", "database"])
def test_no_error_shows_it(
    open_client: Open, give: Give, tls_server: Any, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsn = {
        "password": lambda: give(_WRONG),
        "port": lambda: give(_WRONG, port=1),
        "database": lambda: give(dbname="gone"),
    }[broken]()
    with pytest.raises(AtlasError) as failure:
        open_client(dsn, connect_timeout_s=1)
    text = "".join(traceback.format_exception(failure.value)) + repr(failure.value) + repr(vars(failure.value))
    text += everything_said(caplog)
    assert_silent(text, tls_server.password if broken == "database" else _WRONG)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ada:{}@localhost:1/atlas",
        "postgresql://ada:{}@localhost:1/atlas?sslmode=nonsense",
        "host=localhost port=1 password={} more user=ada",
        "host=localhost port=1 user=ada password='{}",
        "postgresql://localhost:1/atlas?user=ada&pasword={}",
    ],
)
def test_a_mistake_in_the_dsn_shows_nothing_of_it(
    open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The password is not escaped, or is written wrongly, so libpq takes it for another part of the DSN."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AtlasError) as failure:
        open_client(dsn.format(_WRONG), connect_timeout_s=1)
    assert_silent("".join(traceback.format_exception(failure.value)), _WRONG)
    assert_silent(everything_said(caplog), _WRONG)


def test_a_server_that_goes_away_makes_nobody_show_it(
    open_client: Open, give: Give, tls_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The pool connects again in the background, and logs its attempts."""
    caplog.set_level(logging.DEBUG)
    client = open_client(give(), migrate=True, connect_timeout_s=PATIENCE_S, retries=0)
    config = client._view._config
    config.connect_timeout_s = 0.5
    config.dsn = give(_WRONG)
    with pytest.raises(AtlasError) as failure, client.transaction(), client.transaction() as tx:
        tx.users.list()
    assert_silent("".join(traceback.format_exception(failure.value)), _WRONG)
    assert_silent(everything_said(caplog), _WRONG)
    config.dsn = give()


def test_settings_do_not_show_it() -> None:
    assert_silent(repr(Settings(database_url=f"postgresql://ada:{_WRONG}@db/atlas")), _WRONG)


def test_an_asyncio_client_that_is_not_connected_does_not_show_it() -> None:
    client = AsyncAtlas.open(f"postgresql://ada:{_WRONG}@db/atlas")
    assert_silent(repr(client), _WRONG)


def test_a_server_that_refuses_an_option_does_not_make_us_show_it(
    open_client: Open, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL's message quotes the setting that it refuses."""
    caplog.set_level(logging.INFO)
    secret = "0pti0nSekr3t"
    with pytest.raises(AtlasError) as failure:
        open_client(f"{dsn}&options=-c%20statement_timeout%3D{secret}", connect_timeout_s=1)
    text = "".join(traceback.format_exception(failure.value))
    assert "invalid value for parameter ***" in text
    assert_silent(text + everything_said(caplog), secret)
