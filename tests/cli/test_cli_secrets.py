"""No command and no function that takes an address shows a secret in it, even if the address is badly written."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_sdk import AsyncAtlas, Atlas, backups
from atlas_sdk.cli import main
from atlas_sdk.config import Settings
from atlas_sdk.dsn import check_dsn, masked, place
from atlas_sdk.provision import Address, examine, migrate, plan_migrations, set_up

#: A text that occurs in no message of ours, of libpq or of Python.
_SECRET = "Qz7Sekr3t9"
#: An address where no server listens.
_PLACE = "127.0.0.1:1"
_TAIL = f"{_PLACE}/atlas"
_WORDS = "host=127.0.0.1 port=1 dbname=atlas user=ada connect_timeout=2"
_SEPARATORS = ["", "/", "@", ":", "?", "#", "%", "&", "=", " ", "'", '"', "\\", "[", "]", ",", "%zz", "$", "é", "\n"]
_COMMANDS = (
    ("db", "doctor"),
    ("db", "doctor", "--json"),
    ("db", "init", "--dry-run"),
    ("db", "migrate", "--plan"),
    ("db", "url"),
    ("db", "status"),
    ("db", "maintain"),
    ("status",),
    ("log", "--json"),
)


@st.composite
def _passwords(draw: st.DrawFn) -> str:
    """Return a password that contains the secret and characters that end a part of an address."""
    mark = st.sampled_from(_SEPARATORS)
    return "".join((draw(st.sampled_from(["", "a", "1"])), draw(mark), _SECRET, draw(mark), draw(mark)))


@st.composite
def _addresses(draw: st.DrawFn) -> str:
    """Return an address, well or badly formed, with the secret in a part of it that may be secret."""
    raw = draw(_passwords())
    escaped = quote(raw, safe="")
    given = draw(st.sampled_from([raw, escaped, quote(raw)]))
    in_quotes = raw.replace("\\", "\\\\").replace("'", "\\'")
    key = draw(st.sampled_from(["password", "sslpassword", "oauth_client_secret", "scram_client_key", "pasword"]))
    scheme = draw(
        st.sampled_from(["postgresql", "postgres", "postgresql+psycopg", "jdbc:postgresql", "mysql", "POSTGRES"])
    )
    return draw(
        st.sampled_from(
            [
                f"{scheme}://ada:{given}@{_TAIL}",
                f"{scheme}://ada:x{given}@{_TAIL}?sslmode=prefer",
                f"{scheme}://ada:{given}@{_PLACE},127.0.0.1:2/atlas",
                f"{scheme}://ada:1{given}@{_TAIL}?user=a@b",
                f"{scheme}://{_TAIL}?user=ada&{key}={given}",
                f"{scheme}://{_TAIL}?p%61ssword={given}",
                f"{scheme}://{_TAIL}?options={quote('-c app.key=', safe='')}{given}",
                f"{scheme}://ada%3A{escaped}@{_TAIL}",
                f"{_WORDS} {key}={raw}",
                f"{_WORDS} {key} = {raw}",
                f"{_WORDS} {key}='{in_quotes}'",
                f"{_WORDS} {key}='{raw}",
                f"{_WORDS} {key}={raw} sslmode=prefer",
                f"{_WORDS} options='-c app.key={in_quotes}'",
                f"host=postgresql://ada:{given}@{_TAIL}",
                f"dbname=postgresql://ada:{given}@{_TAIL}",
                f"ada:{given}@{_TAIL}",
            ]
        )
    )


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """Collect everything that is printed and logged; yield a function that returns it."""
    printed = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
    logged = logging.StreamHandler(printed)
    root = logging.getLogger()
    level = root.level
    root.addHandler(logged)
    root.setLevel(logging.DEBUG)
    out, err = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = printed
    try:
        yield lambda: printed.buffer.getvalue().decode()  # type: ignore[attr-defined]
    finally:
        sys.stdout, sys.stderr = out, err
        root.removeHandler(logged)
        root.setLevel(level)
        for handler in [one for one in root.handlers if getattr(one, "stream", None) is printed]:
            root.removeHandler(handler)


def _all_of(problem: BaseException) -> str:
    """Return every text of an error and of the errors that caused it."""
    parts = ["".join(traceback.format_exception(problem))]
    one: BaseException | None = problem
    seen: set[int] = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        parts += [repr(one), str(one), repr(vars(one)), repr(one.__cause__), repr(one.__context__)]
        one = one.__cause__ or one.__context__
    return "\n".join(parts)


def _assert_silent(text: str) -> None:
    assert _SECRET not in text, text[max(0, text.index(_SECRET) - 200) :][:400]


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without a server in the environment, in an empty folder."""
    for name in [one for one in os.environ if one.startswith(("PG", "DB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


_OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_OFTEN
@given(
    address=_addresses(),
    command=st.sampled_from(_COMMANDS),
    verbose=st.sampled_from([[], ["--verbose"]]),
    by=st.sampled_from(["flag", "env"]),
)
def test_no_command_tells_a_secret(address: str, command: tuple[str, ...], verbose: list[str], by: str) -> None:
    line = [*command, *verbose]
    with pytest.MonkeyPatch.context() as patch, _heard() as heard:
        if by == "flag":
            line += ["--dsn", address]
        else:
            patch.setenv("ATLAS_DATABASE_URL", address)
        assert main(line) in ({0, 2} if command == ("db", "url") else {2, 5})
        _assert_silent(heard())


@_OFTEN
@given(password=_passwords(), name=st.sampled_from(["DB_PASSWORD", "DB_HOST", "DB_NAME", "DB_USER"]))
def test_no_variable_of_an_address_is_told(password: str, name: str) -> None:
    value = password if name == "DB_PASSWORD" else f"postgresql://ada:{quote(password, safe='')}@{_TAIL}"
    with pytest.MonkeyPatch.context() as patch, _heard() as heard:
        patch.setenv("DB_HOST", "127.0.0.1")
        patch.setenv("DB_PORT", "1")
        patch.setenv(name, value)
        for command in (("db", "doctor", "--verbose"), ("db", "init", "--dry-run", "--verbose")):
            assert main(command) in {2, 5}
        _assert_silent(heard())


async def _open_and_leave(address: str) -> None:
    async with AsyncAtlas.open(address, connect_timeout_s=1, retries=0):
        pass


def _texts_of(one: Address) -> str:
    return f"{one!r} {one} {one.place} {one.url} {one.option} {one.aim('atlasctl db doctor')}"


_TAKERS: dict[str, Callable[[str], object]] = {
    "Atlas.open": lambda address: Atlas.open(address, connect_timeout_s=1, retries=0),
    "AsyncAtlas.open": lambda address: asyncio.run(_open_and_leave(address)),
    "set_up": lambda address: set_up(Address(dsn=address), dry_run=True),
    "migrate": lambda address: migrate(Address(dsn=address)),
    "plan_migrations": lambda address: plan_migrations(Address(dsn=address)),
    "examine": lambda address: repr(examine(Address(dsn=address))),
    "Address": lambda address: _texts_of(Address(dsn=address)),
    "check_dsn": check_dsn,
    "masked": lambda address: f"{masked(address)} {place(address)}",
    "Settings": lambda address: repr(Settings(database_url=address)),
    "dump": lambda address: backups.dump("never.dump", address),
}


@_OFTEN
@given(address=_addresses(), taker=st.sampled_from(sorted(_TAKERS)))
def test_no_function_tells_a_secret(address: str, taker: str) -> None:
    with _heard() as heard:
        try:
            said = str(_TAKERS[taker](address))
        except Exception as problem:  # noqa: BLE001 - whatever it is, it must be silent
            said = _all_of(problem)
        _assert_silent(said + heard())


@pytest.mark.parametrize("line", [["{}"], ["log", "a", "{}"], ["db", "status", "{}"], ["--dsm={}", "log"]])
def test_an_address_in_the_wrong_place_of_a_line_is_not_told(line: list[str]) -> None:
    with _heard() as heard:
        assert main([word.format(f"postgresql://ada:{_SECRET}@{_TAIL}") for word in line]) == 2
        _assert_silent(heard())
