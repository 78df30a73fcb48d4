"""Find out why a connection to a database fails."""

import re
from typing import Final

from atlas_sdk._drive.admin import ping, quoted_name, server_message
from atlas_sdk._sql import statements
from atlas_sdk.errors import AuthenticationFailed, DatabaseUnreachable
from atlas_sdk.provision.address import MAINTENANCE, Address
from atlas_sdk.provision.findings import Finding, problem
from atlas_sdk.provision.session import open_session

__all__ = ["explain"]

sql = statements("provision")

_NAME: Final = "connection"
#: The English messages of a server. For a server with messages in another language, the findings are less exact.
_TOO_MANY: Final = re.compile(r"too many (clients|connections)|remaining connection slots")
_NO_ENTRY: Final = re.compile(r"pg_hba\.conf")
_START: Final = "sudo systemctl start postgresql    # Linux; macOS: brew services start postgresql"


def explain(address: Address, refusal: DatabaseUnreachable) -> Finding:
    """Return a finding with the reason why a connection failed, and with advice.

    A server gives its reason only as text. So this function also pings the server, which needs no login, and asks the
    database `postgres` whether the database of the address exists.
    """
    where = f"-h {address.host} -p {address.port}"
    answer = ping(address.dsn)
    if answer == "silent":
        return problem(_NAME, str(refusal), f"pg_isready {where}", _START, "# or mend host and port in the DSN")
    if answer == "rejects":
        return problem(_NAME, f"{address.place}: the server is starting, stopping or recovering; wait for it")
    if _TOO_MANY.search(server_message(refusal)):
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


def _about_the_database(address: Address) -> Finding | None:
    name = address.database
    try:
        with open_session(address.of(MAINTENANCE).dsn) as server:
            found = None if name is None else server.row(sql["database"], name=name)
            if name is None or (found is not None and found["may_connect"]):
                return None
            if found is None:
                return problem(_NAME, f"{address.place}: there is no such database", "atlasctl db init")
            grant = server.value(sql["write_grant_connect"], database=name, role=address.user)
            return problem(_NAME, f"{address.place}: this login may not connect to this database", f"{grant};")
    except DatabaseUnreachable:
        return None


def _about_the_login(address: Address, refusal: DatabaseUnreachable) -> Finding:
    message = server_message(refusal)
    if _NO_ENTRY.search(message):
        return problem(
            _NAME,
            f"{address.place}: pg_hba.conf of the server lets nobody in who comes like this",
            f"# add a line to pg_hba.conf:  host  {address.database or 'all'}  {address.user}  samehost  scram-sha-256",
            "SELECT pg_reload_conf();",
        )
    # This message comes from libpq itself, in English.
    asked = "no password supplied" in message
    failed = isinstance(refusal, AuthenticationFailed)
    what = "the server wants a password and none was given" if asked else "no such user, or another password"
    return problem(
        _NAME,
        f"{address.place}: authentication failed: {what}" if asked or failed else str(refusal),
        "# check user and password in the DSN (DB_USER, DB_PASSWORD), or give the role a new one in psql:",
        f"\\password {quoted_name(address.user)}",
    )
