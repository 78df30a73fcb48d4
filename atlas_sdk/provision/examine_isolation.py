"""Examine the isolation of tenants: policies, grants, and the rights of functions."""

from collections.abc import Iterator

from atlas_sdk._sql import statements
from atlas_sdk.provision.definitions import (
    PolicyRule,
    function_rights,
    invoker_views,
    policy_rules,
    same_rule,
)
from atlas_sdk.provision.findings import Finding, fine, problem, some
from atlas_sdk.provision.grants import tenant_rights
from atlas_sdk.provision.inventory import Inventory
from atlas_sdk.provision.roles import APP, OWNER
from atlas_sdk.provision.script import expected
from atlas_sdk.provision.session import Session

__all__ = ["examine_isolation", "excess"]

sql = statements("doctor")

#: What is wrong with one thing, and what mends it.
Trouble = tuple[str, tuple[str, ...]]


def examine_isolation(session: Session, schema: str, inventory: Inventory) -> Finding:
    """Return a verdict on everything that keeps one tenant's rows from another, but the grants."""
    troubles = [
        *_roles(session),
        *_row_security(inventory),
        *_policies(session, schema, inventory),
        *_views(session, schema),
        *_functions(session, schema),
    ]
    if not troubles:
        return fine("isolation", "every table shows a tenant its own rows only")
    told, fixes = zip(*troubles, strict=True)
    return problem("isolation", "; ".join(told), *(line for fix in fixes for line in fix))


def excess(session: Session, schema: str, *, renew: tuple[str, ...]) -> Iterator[Finding]:
    """Yield a verdict if atlas_app may do more than a tenant may; `renew` takes back what was given to itself."""
    if session.rows(sql["above_policies"], role=APP, owner=OWNER):
        # Then it may do everything, and that is said elsewhere.
        return
    rights = tenant_rights()
    rows = [
        row
        for row in session.rows(
            sql["excess_privileges"], role=APP, schema=schema, names=expected().names("table", "view")
        )
        if not _is_meant(rights, row["name"], row["privilege"], row["on_column"])
    ]
    if not rows:
        return
    named = dict.fromkeys(_named(row["privilege"], row["name"], row["on_column"], schema) for row in rows)
    fixes = renew if any(row["is_own"] and row["name"] is not None for row in rows) else ()
    # What came another way, or is not on a table, is not taken back with those.
    others = tuple(f"{row['command']};" for row in rows if not row["is_own"] or row["name"] is None)
    yield problem("grants", f"{APP} may do more than a tenant may: {some(list(named))}", *fixes, *others)


def _is_meant(
    rights: dict[tuple[str, str], frozenset[str] | None], name: str | None, privilege: str, column: str | None
) -> bool:
    if name is None or (name, privilege) not in rights:
        return False
    columns = rights[name, privilege]
    return columns is None or column in columns


def _named(privilege: str, name: str | None, column: str | None, schema: str) -> str:
    columns = "" if column is None else f" ({column})"
    return f"{privilege}{columns} on {name or f'the schema {schema}'}"


def _roles(session: Session) -> Iterator[Trouble]:
    for row in session.rows(sql["above_policies"], role=APP, owner=OWNER):
        yield f"{APP} {row['how']}, so policies do not bind it", (f"{row['command']};",)


def _row_security(inventory: Inventory) -> Iterator[Trouble]:
    off = sorted(thing.name for thing in inventory.unfit if thing.kind == "row security")
    if off:
        fixes = tuple(f'ALTER TABLE "{name}" ENABLE ROW LEVEL SECURITY;' for name in off)
        yield f"row-level security is off on {some(off)}", fixes


def _policies(session: Session, schema: str, inventory: Inventory) -> Iterator[Trouble]:
    missing = sorted((thing for thing in inventory.missing if thing.kind == "policy"), key=str)
    if missing:
        yield f"policies are missing: {some(list(map(str, missing)))}", tuple(f"{thing.text};" for thing in missing)
    rules, things = policy_rules(), expected().of("policy")
    for row in session.rows(sql["policies"], role=APP, schema=schema, names=expected().names("table")):
        key = row["name"], row["on_table"]
        if key not in rules:
            yield f"the policy {key[0]} on {key[1]} is not one of AtlasEngine's", (f"{row['write_drop']};",)
        elif not same_rule(rules[key], PolicyRule(row["command"], row["using"], row["check"])):
            fix = (f"{row['write_drop']};", f"{things[key].text};")
            yield f"the policy {key[0]} on {key[1]} was changed", fix


def _views(session: Session, schema: str) -> Iterator[Trouble]:
    for row in session.rows(sql["views_of_their_owner"], schema=schema, names=sorted(invoker_views())):
        yield f"the view {row['name']} shows everybody what its owner sees", (f"{row['command']};",)


def _functions(session: Session, schema: str) -> Iterator[Trouble]:
    wanted = function_rights()
    for row in session.rows(sql["functions"], schema=schema, names=sorted(wanted)):
        name, rights = row["name"], wanted[row["name"]]
        if row["is_definer"] != rights.is_definer:
            whose, word = ("its owner's", "DEFINER") if rights.is_definer else ("its caller's", "INVOKER")
            yield f"the function {name} does not run with {whose} rights", (f"{row['write_alter']} SECURITY {word};",)
        if rights.is_pinned and not row["is_pinned"]:
            fix = f"{row['write_alter']} {row['write_path']};"
            yield f"the function {name} looks for tables where its caller says", (fix,)
