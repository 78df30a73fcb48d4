"""Examine the isolation of tenants: policies, grants, and the rights of functions."""

from collections.abc import Iterator

from atlas_sdk._drive.admin import AdminSession, quoted_name
from atlas_sdk._sql import statements
from atlas_sdk.provision.findings import Finding, fine, problem
from atlas_sdk.provision.inventory import Inventory, expected
from atlas_sdk.provision.roles import APP, OWNER
from atlas_sdk.text import some

__all__ = ["examine_isolation", "excess", "function_troubles"]

sql = statements("doctor")

#: A problem, and the commands that mend it.
Trouble = tuple[str, tuple[str, ...]]


def examine_isolation(session: AdminSession, schema: str, inventory: Inventory) -> Finding:
    """Return a verdict on everything that hides one tenant's rows from another, except the grants."""
    troubles = [
        *_roles(session),
        *_row_security(inventory),
        *_policies(inventory),
        *_views(inventory),
        *function_troubles(inventory, schema),
    ]
    if not troubles:
        return fine("isolation", "every table shows a tenant its own rows only")
    told, fixes = zip(*troubles, strict=True)
    return problem("isolation", "; ".join(told), *(line for fix in fixes for line in fix))


def excess(session: AdminSession, schema: str, *, renew: tuple[str, ...]) -> Iterator[Finding]:
    """Yield a problem if atlas_app may do more than a tenant may; `renew` revokes the grants to atlas_app itself."""
    if session.rows(sql["above_policies"], role=APP, owner=OWNER):
        # Then atlas_app may do everything, and `examine_isolation` reports that.
        return
    rights = expected().privileges()
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
    # `renew` does not revoke a grant to another role, nor a grant that is not on a table.
    others = tuple(f"{row['command']};" for row in rows if not row["is_own"] or row["name"] is None)
    yield problem("grants", f"{APP} may do more than a tenant may: {some(list(named))}", *fixes, *others)


def _is_meant(
    rights: dict[tuple[str, str], set[str] | None], name: str | None, privilege: str, column: str | None
) -> bool:
    if name is None or (name, privilege) not in rights:
        return False
    columns = rights[name, privilege]
    return columns is None or column in columns


def _named(privilege: str, name: str | None, column: str | None, schema: str) -> str:
    columns = "" if column is None else f" ({column})"
    return f"{privilege}{columns} on {name or f'the schema {schema}'}"


def _roles(session: AdminSession) -> Iterator[Trouble]:
    for row in session.rows(sql["above_policies"], role=APP, owner=OWNER):
        yield f"{APP} {row['how']}, so policies do not bind it", (f"{row['command']};",)


def _row_security(inventory: Inventory) -> Iterator[Trouble]:
    off = [each for each, _ in inventory.changed("table")]
    if off:
        fixes = tuple(f"ALTER TABLE {each.identity} ENABLE ROW LEVEL SECURITY;" for each in off)
        yield f"row-level security is off on {some([each.thing.name for each in off])}", fixes


def _policies(inventory: Inventory) -> Iterator[Trouble]:
    missing = [thing for thing in inventory.missing if thing.kind == "policy"]
    if missing:
        yield f"policies are missing: {some(list(map(str, missing)))}", tuple(f"{thing.making};" for thing in missing)
    for each, wanted in inventory.changed("policy"):
        yield f"the policy {wanted} was changed", (f"DROP POLICY {each.identity};", f"{wanted.making};")
    ours, tables = expected().of("policy"), set(expected().names("table"))
    for each in inventory.found:
        thing = each.thing
        if each.reaches and thing.on_table in tables and (thing.name, thing.on_table) not in ours:
            yield f"the policy {thing} is not one of AtlasEngine's", (f"DROP POLICY {each.identity};",)


def _views(inventory: Inventory) -> Iterator[Trouble]:
    for each, wanted in inventory.changed("view"):
        fix = f"ALTER VIEW {each.identity} SET (security_invoker = true);"
        yield f"the view {wanted} shows everybody the rows that its owner sees", (fix,)


def function_troubles(inventory: Inventory, schema: str) -> Iterator[Trouble]:
    """Yield each function whose rights or search_path differ from those in the migrations."""
    for each, wanted in inventory.changed("function"):
        rules, found = (wanted.rule or "").split(), (each.thing.rule or "").split()
        if rules[0] != found[0]:
            whose = "its owner's" if rules[0] == "definer" else "its caller's"
            fix = f"ALTER ROUTINE {each.identity} SECURITY {rules[0].upper()};"
            yield f"the function {wanted} does not run with {whose} rights", (fix,)
        if "pinned" in rules and "pinned" not in found:
            fix = f"ALTER ROUTINE {each.identity} SET search_path = {quoted_name(schema)}, pg_temp;"
            yield f"the function {wanted} looks for tables where its caller says", (fix,)
