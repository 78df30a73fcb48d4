"""Why there is no connection."""

import re
from typing import Final

import psycopg
from psycopg import pq

from atlas_sdk._sql import statements
from atlas_sdk._translate import translate
from atlas_sdk.errors import AuthenticationFailed
from atlas_sdk.provision.address import MAINTENANCE, Address
from atlas_sdk.provision.findings import Finding, problem
from atlas_sdk.provision.session import Session

__all__ = ["explain"]

sql = statements("provision")

_NAME: Final = "connection"
#: The words of servers that speak English; to others the same findings are less exact.
_TOO_MANY: Final = re.compile(r"too many (clients|connections)|remaining connection slots")
_NO_ENTRY: Final = re.compile(r"pg_hba\.conf")
_START: Final = "sudo systemctl start postgresql    # Linux; macOS: brew services start postgresql"
#: More than the other end of the world takes.
_PING_S: Final = 5


def explain(address: Address, refusal: psycopg.OperationalError) -> Finding:
    """Return what keeps us from connecting, and what would help.

    What a refusal means is only said in words. So the server is asked in other ways, too: by a ping, which tells
    whether anybody is there, and through its own database, which knows whether ours exists.
    """
    where = f"-h {address.host} -p {address.port}"
    sentence = str(translate(refusal, address.dsn))
    answer = pq.PGconn.ping(_pinged(address).encode())
    if answer == pq.Ping.NO_RESPONSE:
        return problem(_NAME, sentence, f"pg_isready {where}", _START, "# or mend host and port in the DSN")
    if answer == pq.Ping.REJECT:
        return problem(_NAME, f"{address.place}: the server is starting, stopping or recovering; wait for it")
    if _TOO_MANY.search(str(refusal)):
        return problem(
            _NAME,
            f"{address.place}: every connection of the server is taken",
            "# as a superuser, for whom some are kept:",
            "SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3 ORDER BY 4 DESC;",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction';",
            "# then give clients a smaller pool (pool_max=…), put a pooler such as PgBouncer between, or",
            "ALTER SYSTEM SET max_connections = 300;    -- then restart the server",
        )
    return _about_the_database(address) or _about_the_login(address, refusal)


def _pinged(address: Address) -> str:
    parted = address.dsn
    if "connect_timeout" in parted:
        return parted
    return psycopg.conninfo.make_conninfo(parted, connect_timeout=_PING_S)


def _about_the_database(address: Address) -> Finding | None:
    name = address.database
    try:
        with Session.open(address.of(MAINTENANCE)) as server:
            found = None if name is None else server.row(sql["database"], name=name)
            if name is None or (found is not None and found["may_connect"]):
                return None
            if found is None:
                return problem(_NAME, f"{address.place}: there is no such database", "atlasctl db init")
            grant = server.value(sql["write_grant_connect"], database=name, role=address.user)
            return problem(_NAME, f"{address.place}: this login may not connect to this database", f"{grant};")
    except psycopg.OperationalError:
        return None


def _about_the_login(address: Address, refusal: psycopg.OperationalError) -> Finding:
    if _NO_ENTRY.search(str(refusal)):
        return problem(
            _NAME,
            f"{address.place}: pg_hba.conf of the server lets nobody in who comes like this",
            f"# add a line to pg_hba.conf:  host  {address.database or 'all'}  {address.user}  samehost  scram-sha-256",
            "SELECT pg_reload_conf();",
        )
    translated = translate(refusal, address.dsn)
    # libpq's own words, which are always English here.
    asked = "no password supplied" in str(refusal)
    failed = isinstance(translated, AuthenticationFailed)
    what = "the server wants a password and none was given" if asked else "no such user, or another password"
    return problem(
        _NAME,
        f"{address.place}: authentication failed: {what}" if asked or failed else str(translated),
        "# check user and password in the DSN (DB_USER, DB_PASSWORD), or give the role a new one in psql:",
        f"\\password {psycopg.sql.Identifier(address.user).as_string()}",
    )
