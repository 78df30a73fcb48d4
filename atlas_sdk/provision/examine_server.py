"""Examine the server: version, clock, settings, connections, vacuum."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.provision.findings import Finding, fine, problem
from atlas_sdk.provision.session import AdminLogin
from atlas_sdk.provision.setup import OLDEST_SERVER
from atlas_sdk.text import some

__all__ = ["examine_server", "examine_tables"]

sql = statements("doctor")
provision = statements("provision")

#: The largest accepted difference between the clocks of this machine and the server. One clock sets the times of
#: sessions, and the other one checks them.
_SKEW: Final = timedelta(seconds=5)
#: Above this share of used connections, the server may refuse the next ones.
_FULL: Final = 0.9
#: An open transaction that is idle for longer is stuck: no program works so long between two statements.
_STUCK: Final = timedelta(minutes=5)
#: autovacuum starts at a fifth of dead rows. At a half, autovacuum is late or was stopped.
_DEAD_SHARE: Final = 0.5
#: A table with fewer rows is read in a moment, dead rows included.
_DEAD_ROWS: Final = 10_000
_SHOWN_USERS: Final = 3


def examine_server(session: AdminSession, login: AdminLogin, *, clock: Callable[[], datetime]) -> Iterator[Finding]:
    """Yield a verdict on version, clock, settings, and connections."""
    if login.version_number < OLDEST_SERVER:
        yield problem("version", f"PostgreSQL {login.version} is too old", "# upgrade the server to 15 or newer")
    if login.is_standby:
        yield problem("version", "this is a standby, which takes no writes", "# give the address of the primary")
    yield _clock(session, clock)
    settings = {row["name"]: row for row in session.rows(sql["settings"])}
    yield _settings(session, login, settings)
    yield _connections(session)


def examine_tables(session: AdminSession, schema: str) -> Finding:
    """Return a verdict on vacuum: whether it is on, and whether its work is overdue."""
    settings = {row["name"]: row["setting"] for row in session.rows(sql["settings"])}
    troubles, fixes = [], []
    for name in ("autovacuum", "track_counts"):
        if settings[name] == "off":
            troubles.append(f"{name} is off")
            fixes += [f"ALTER SYSTEM SET {name} = on;", "SELECT pg_reload_conf();"]
    rows = session.rows(sql["tables"], schema=schema)
    for row in rows:
        if row["is_never_vacuumed"]:
            troubles.append(f"autovacuum is off for {row['name']}")
            fixes.append(f'ALTER TABLE "{row["name"]}" RESET (autovacuum_enabled);')
    for row in rows:
        if row["dead"] > _DEAD_ROWS and row["dead"] > _DEAD_SHARE * row["live"]:
            troubles.append(f"{row['name']} has {row['dead']:,} dead rows beside {row['live']:,}")
            fixes.append(f'VACUUM (ANALYZE) "{row["name"]}";')
        elif row["live"] > _DEAD_ROWS and row["analysed_at"] is None:
            troubles.append(f"{row['name']} was never analysed")
            fixes.append(f'ANALYZE "{row["name"]}";')
    if not troubles:
        return fine("vacuum", f"autovacuum is on, {len(rows)} tables are in order")
    return problem("vacuum", "; ".join(troubles), *dict.fromkeys(fixes))


def _clock(session: AdminSession, clock: Callable[[], datetime]) -> Finding:
    before = clock()
    server: datetime = session.value(sql["now"])
    after = clock()
    skew = server - (before + (after - before) / 2)
    # The server read its clock at some moment of the round trip.
    if abs(skew) <= _SKEW + (after - before) / 2:
        return fine("clock", f"the server's differs by {abs(skew).total_seconds():.1f} s")
    word = "ahead of" if skew > timedelta() else "behind"
    return problem(
        "clock",
        f"the server's clock is {abs(skew).total_seconds():.1f} s {word} this machine's; "
        f"it says {server.astimezone(UTC):%H:%M:%S} UTC",
        "timedatectl status      # on both: is it synchronized?",
        "sudo timedatectl set-ntp true",
    )


def _settings(session: AdminSession, login: AdminLogin, settings: dict[str, dict[str, Any]]) -> Finding:
    troubles, fixes = [], []
    dangers = {
        "fsync": "a crash of the machine destroys the database",
        "full_page_writes": "a crash of the machine can tear pages",
        "synchronous_commit": "what was confirmed can be lost in a crash",
    }
    for name, danger in dangers.items():
        if settings[name]["setting"] == "off":
            troubles.append(f"{name} is off: {danger}")
            fixes += _resetting(session, name, settings[name]["source"])
    encoding = settings["server_encoding"]["setting"]
    if encoding != "UTF8":
        troubles.append(f"the database is encoded in {encoding}: not every text can be stored")
        fixes += [
            "atlasctl db dump before.dump",
            f"{session.value(provision['write_create_database'], name=f'{login.database}_utf8', owner=None)};",
            "# then, with the new database in the DSN:",
            "atlasctl db load before.dump",
        ]
    if not troubles:
        return fine("settings", "fsync, full_page_writes and synchronous_commit are on, the encoding is UTF8")
    return problem("settings", "; ".join(troubles), *dict.fromkeys(fixes))


def _resetting(session: AdminSession, name: str, source: str) -> list[str]:
    """Return the commands that undo a setting where it was set."""
    if source in {"database", "user", "database user"}:
        return [row["command"] + ";" for row in session.rows(sql["write_resets"], setting=name)]
    if source == "command line":
        return [f"# it is set where the server is started: take -c {name}=off away and restart it"]
    if source in {"client", "environment variable", "session"}:
        return [f"# it is set by the client: take {name} out of options in the DSN, or out of PGOPTIONS"]
    return [f"ALTER SYSTEM SET {name} = on;", "SELECT pg_reload_conf();"]


def _connections(session: AdminSession) -> Finding:
    found = session.row(sql["connections"]) or {}
    rows = session.rows(sql["who_is_connected"], idle=_STUCK)
    users = [
        f"{row['connections']} of {row['login']} ({row['application']}, database {row['database']})"
        for row in rows[:_SHOWN_USERS]
    ]
    fixes: list[str] = []
    troubles: list[str] = []
    for used, limit, place in (
        (found["used"], found["of_server"], "the server"),
        (found["used_in_database"], found["of_database"], "this database"),
    ):
        if limit is not None and used >= _FULL * limit:
            troubles.append(f"{used} of {limit} connections of {place} are taken: {some(users)}")
            fixes += [
                "# give each client a smaller pool (pool_max=…), put a pooler such as PgBouncer between, or",
                f"ALTER SYSTEM SET max_connections = {2 * limit};    -- then restart the server"
                if place == "the server"
                else session.value(sql["write_no_limit"]) + ";",
            ]
    if stuck := [row for row in rows if row["stuck"]]:
        named = [f"{row['stuck']} of {row['login']} ({row['application']})" for row in stuck]
        troubles.append(f"in a transaction and idle for minutes, which keeps vacuum from working: {some(named)}")
        fixes.append(session.value(sql["write_end_stuck"], idle=_STUCK) + ";")
    if not troubles:
        return fine("connections", f"{found['used']} of {found['of_server']} are taken")
    return problem("connections", "; ".join(troubles), *fixes)
