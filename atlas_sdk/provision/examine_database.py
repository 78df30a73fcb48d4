"""Examine the rights of every login beside our tables: temporary tables, large objects, advisory locks."""

import re
from collections.abc import Iterator

from atlas_sdk._sql import statements
from atlas_sdk.provision.findings import Finding, fine, problem, some
from atlas_sdk.provision.roles import APP, OWNER
from atlas_sdk.provision.script import expected
from atlas_sdk.provision.session import Login, Session

__all__ = ["examine_database", "function_grants"]

sql = statements("doctor")
provision = statements("provision")

_LAST = re.compile(r'(^|,)\s*"?pg_temp"?\s*$')

#: What is wrong with one thing, and what mends it.
Trouble = tuple[str, str]


def examine_database(session: Session, login: Login, schema: str) -> Finding:
    """Return a verdict on what could be taken for ours, and on what no policy keeps apart."""
    troubles = [*_privileges(session), *_search_path(session, schema), *_functions(session, login)]
    if troubles:
        told, fixes = zip(*troubles, strict=True)
        return problem("database", "; ".join(told), *fixes)
    left = (session.row(sql["system_functions"], role=APP) or {"amount": 0})["amount"]
    remark = "; large objects and advisory locks are everybody's, which a superuser can change" if left else ""
    return fine("database", f"{APP} makes no temporary tables, and they come last{remark}")


def _privileges(session: Session) -> Iterator[Trouble]:
    for row in session.rows(sql["database_grants"], role=APP):
        what = "makes temporary tables" if row["privilege"] == "TEMPORARY" else "makes schemas"
        yield f"{APP} {what}, whose names could be taken for AtlasEngine's", f"{row['command']};"


def _search_path(session: Session, schema: str) -> Iterator[Trouble]:
    """Yield what is wrong with the search_path of new connections, where a client cannot set its own."""
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
    # Where one is set, another one is that of the DSN.
    if not rows and _LAST.search(session.search_path) is None:
        yield told.format("search_path"), f"{session.value(provision['write_path'], schema=schema)};"


def _parts(path: str) -> list[str]:
    return [part for found in re.findall(r'"(?:[^"]|"")*"|[^,\s]+', path) if (part := found.strip())]


def _functions(session: Session, login: Login) -> Iterator[Trouble]:
    found = session.row(sql["system_functions"], role=APP)
    # Nobody else can change that, and on a managed server there is no superuser.
    if found is not None and found["amount"] and login.is_superuser:
        yield (
            f"{APP} may execute {found['amount']} functions of PostgreSQL for large objects and advisory locks",
            f"{found['command']};",
        )


def function_grants(session: Session, schema: str) -> Iterator[Finding]:
    """Yield a verdict if a tenant may not execute one of our functions."""
    rows = session.rows(sql["function_grants"], role=APP, schema=schema, names=expected().names("function"))
    if rows:
        named = some(sorted({row["name"] for row in rows}))
        yield problem("grants", f"{APP} may not execute {named}", *(f"{row['command']};" for row in rows))
