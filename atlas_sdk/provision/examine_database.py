"""Examine the rights that every login has outside of our tables: temporary tables, large objects, advisory locks."""

import re
from collections.abc import Iterator

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.provision.findings import Finding, fine, problem
from atlas_sdk.provision.inventory import expected
from atlas_sdk.provision.roles import APP, OWNER
from atlas_sdk.provision.session import AdminLogin
from atlas_sdk.text import some

__all__ = ["examine_database", "function_grants"]

sql = statements("doctor")
provision = statements("provision")

_LAST = re.compile(r'(^|,)\s*"?pg_temp"?\s*$')

#: A problem, and the command that mends it.
Trouble = tuple[str, str]


def examine_database(session: AdminSession, login: AdminLogin, schema: str) -> Finding:
    """Return a verdict on objects that could be mistaken for ours, and on objects that no policy protects."""
    troubles = [*_privileges(session), *_search_path(session, schema), *_functions(session, login)]
    if troubles:
        told, fixes = zip(*troubles, strict=True)
        return problem("database", "; ".join(told), *fixes)
    left = (session.row(sql["system_functions"], role=APP) or {"amount": 0})["amount"]
    remark = "; large objects and advisory locks are everybody's, which a superuser can change" if left else ""
    return fine("database", f"{APP} makes no temporary tables, and they come last{remark}")


def _privileges(session: AdminSession) -> Iterator[Trouble]:
    for row in session.rows(sql["database_grants"], role=APP):
        what = "makes temporary tables" if row["privilege"] == "TEMPORARY" else "makes schemas"
        yield f"{APP} {what}, whose names could be taken for AtlasEngine's", f"{row['command']};"


def _search_path(session: AdminSession, schema: str) -> Iterator[Trouble]:
    """Yield the problems of the search_path of new connections, for clients that cannot set their own."""
    told = "temporary tables come before AtlasEngine's in {}, which counts behind a pooler"
    rows = session.rows(sql["search_paths"], role=APP, owner=OWNER)
    for row in rows:
        if _LAST.search(row["path"]) is None:
            place = row["alter_command"].removeprefix("ALTER ")
            path = ", ".join(part for part in _parts(row["path"]) if part != "pg_temp")
            yield (
                told.format(f"the search_path of {place}"),
                f"{row['alter_command']} SET search_path = {path}, pg_temp;",
            )
    # Skip this session's search_path if the database or a role sets one: a different one comes from the DSN.
    if not rows and _LAST.search(session.value(sql["search_path"])) is None:
        yield told.format("search_path"), f"{session.value(provision['write_path'], schema=schema)};"


def _parts(path: str) -> list[str]:
    return [part for found in re.findall(r'"(?:[^"]|"")*"|[^,\s]+', path) if (part := found.strip())]


def _functions(session: AdminSession, login: AdminLogin) -> Iterator[Trouble]:
    found = session.row(sql["system_functions"], role=APP)
    # Only a superuser can revoke these rights, and a managed server has no superuser for its users.
    if found is not None and found["amount"] and login.is_superuser:
        yield (
            f"{APP} may execute {found['amount']} functions of PostgreSQL for large objects and advisory locks",
            f"{found['command']};",
        )


def function_grants(session: AdminSession, schema: str) -> Iterator[Finding]:
    """Yield a problem if a tenant may not execute one of our functions."""
    rows = session.rows(sql["function_grants"], role=APP, schema=schema, names=expected().names("function"))
    if rows:
        named = some(sorted({row["name"] for row in rows}))
        yield problem("grants", f"{APP} may not execute {named}", *(f"{row['command']};" for row in rows))
