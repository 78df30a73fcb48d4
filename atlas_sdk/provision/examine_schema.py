"""Examine the schema: its version, its objects, its grants."""

from collections.abc import Iterator

from atlas_sdk._drive.admin import AdminSession, quoted_name
from atlas_sdk._sql import migrations, statements
from atlas_sdk.errors import NotPermitted
from atlas_sdk.model.schema import AppliedMigration
from atlas_sdk.ops import schema
from atlas_sdk.provision.examine_database import examine_database, function_grants
from atlas_sdk.provision.examine_isolation import examine_isolation, excess
from atlas_sdk.provision.findings import Finding, fine, problem, skipped
from atlas_sdk.provision.inventory import REMADE, Inventory, Thing, expected, take
from atlas_sdk.provision.roles import APP, OWNER, may_become
from atlas_sdk.provision.session import AdminLogin
from atlas_sdk.text import some

__all__ = ["examine_schema"]

sql = statements("doctor")
provision = statements("provision")

_USUAL_SCHEMA = "public"


def examine_schema(session: AdminSession, login: AdminLogin) -> Iterator[Finding]:
    """Yield a verdict on version, grants, objects, indexes, and isolation of tenants."""
    place = session.row(provision["schema"]) or {}
    name = place["name"]
    if name is None or not place["owner"]:
        yield _closed(session, login) or problem("schema", "there is no AtlasEngine schema", "atlasctl db init")
        return
    try:
        applied = session.run(schema.status())
    except NotPermitted:
        yield skipped("schema", "this login may not read its version")
        yield from _grants(session, login, name)
        return
    version = _version(applied)
    yield version
    if version.verdict != "ok":
        yield skipped("objects", "not until the schema fits")
        return
    yield from _grants(session, login, name)
    inventory = take(session, name)
    yield _objects(inventory)
    yield _indexes(inventory)
    yield examine_isolation(session, name, inventory)
    yield examine_database(session, login, name)


def _closed(session: AdminSession, login: AdminLogin) -> Finding | None:
    """Return a problem if the schema only looks missing, because this login may not use it."""
    found = session.row(sql["may_use"], role=login.name, schema=_USUAL_SCHEMA)
    if found is None or found["may_use"]:
        return None
    return problem(
        "grants",
        f"permission denied: {login.name} may not use the schema {_USUAL_SCHEMA}",
        *_memberships(session, login),
        "# or, when the role has no grants either, as the owner of the database:",
        "atlasctl db init",
    )


def _memberships(session: AdminSession, login: AdminLogin) -> tuple[str, ...]:
    if session.row(provision["role"], name=APP) is None or may_become(session, APP):
        return ()
    acting = session.value(provision["write_grant_role"], role=APP, member=login.name)
    owning = session.value(provision["write_grant_role"], role=OWNER, member=login.name)
    return (
        "# for an application, which acts for tenants:",
        f"{acting};",
        f"# or for migrations and maintenance: {owning};",
    )


def _version(applied: list[AppliedMigration]) -> Finding:
    known = migrations()
    differing = [
        f"{row.version:04}_{row.name}"
        for row, migration in zip(applied, known, strict=False)
        if (row.version, row.name, row.checksum) != (migration.version, migration.name, schema.checksum(migration))
    ]
    if differing:
        return problem(
            "schema",
            f"these migrations are not the ones of this AtlasEngine: {some(differing)}; a changed or unreleased "
            "version made the schema, so none may be added",
            "# use the version that made it, or set up another database with atlasctl db init",
        )
    if len(applied) > len(known):
        detail = f"version {len(applied)} is newer than this AtlasEngine, which knows {len(known)}"
        return problem("schema", detail, "pip install --upgrade atlasengine")
    if len(applied) < len(known):
        detail = f"version {len(applied)} is older than this AtlasEngine, which needs {len(known)}"
        return problem("schema", detail, "atlasctl db migrate --plan", "atlasctl db migrate")
    return fine("schema", f"version {len(applied)}, up to date")


def _grants(session: AdminSession, login: AdminLogin, name: str) -> Iterator[Finding]:
    if session.row(provision["role"], name=APP) is None:
        yield problem("grants", f"there is no role {APP}, so as_user cannot keep tenants apart", "atlasctl db init")
        return
    wrong = [
        *_denied(session, login, name),
        *excess(session, name, renew=_renewal(session, login)),
        *function_grants(session, name),
    ]
    yield from wrong
    if not wrong:
        yield fine("grants", f"{login.name} and {APP} may do what they need, {APP} nothing else")


def _renewal(session: AdminSession, login: AdminLogin) -> tuple[str, ...]:
    """Return the commands that give atlas_app its rights on our tables, and revoke all others."""
    if may_become(session, OWNER) or login.is_superuser:
        return ("atlasctl db init",)
    return ("# as the owner of the tables:", "SELECT grant_atlas_roles();")


def _denied(session: AdminSession, login: AdminLogin, name: str) -> Iterator[Finding]:
    names, privileges = zip(*sorted(expected().privileges()), strict=True)
    renew = _renewal(session, login)
    told = False
    for role in dict.fromkeys((login.name, APP)):
        joins = () if role == APP else _memberships(session, login)
        usable = session.row(sql["may_use"], role=role, schema=name)
        if usable is None or not usable["may_use"]:
            yield problem("grants", f"permission denied: {role} may not use the schema {name}", *(joins or renew))
            told = True
            continue
        missing: dict[str, list[str]] = {}
        for row in session.rows(
            sql["missing_privileges"], role=role, schema=name, names=list(names), privileges=list(privileges)
        ):
            missing.setdefault(row["privilege"], []).append(row["name"])
        if missing:
            lacks = "; ".join(f"{privilege} on {some(tables)}" for privilege, tables in missing.items())
            yield problem("grants", f"permission denied: {role} lacks {lacks}", *(joins or renew))
            told = True
    if not told and not may_become(session, APP):
        yield problem("grants", f"{login.name} may not act as {APP}, so as_user fails", *_memberships(session, login))


def _objects(inventory: Inventory) -> Finding:
    missing = [thing for thing in inventory.missing if thing.kind in {"table", "view", "function", "type", "trigger"}]
    disabled = [each for each in inventory.unfit if each.thing.kind == "trigger"]
    if not missing and not disabled:
        counted = [f"{len(expected().of(kind))} {kind}s" for kind in ("table", "view", "function", "trigger")]
        return fine("objects", f"{', '.join(counted)}: all there")
    named = [f"{thing.kind} {thing.name}" for thing in sorted(missing, key=str)]
    named += [f"trigger {each.thing} (disabled)" for each in disabled]
    fixes = [f"ALTER TABLE {quoted_name(str(e.thing.on_table))} ENABLE TRIGGER {e.identity};" for e in disabled]
    # List the objects first that `atlasctl db init` makes.
    fixes += [_making(thing) for thing in sorted(missing, key=lambda thing: (thing.kind not in REMADE, str(thing)))]
    return problem("objects", f"missing or out of order: {some(named)}", *dict.fromkeys(fixes))


def _making(thing: Thing) -> str:
    if thing.kind in REMADE:
        return "atlasctl db init"
    if thing.kind == "table":
        return f"# the rows of {thing.name} are gone with it: load a backup"
    return f"# the type {thing.name} is gone with every column of it: load a backup"


def _indexes(inventory: Inventory) -> Finding:
    # CONCURRENTLY lets others write at the same time.
    wrong = {
        f"{thing} (missing)": f"{thing.making};".replace("INDEX ", "INDEX CONCURRENTLY ", 1)
        for thing in inventory.missing
        if thing.kind == "index"
    }
    wrong |= {
        f"{each.thing} (invalid)": f"REINDEX INDEX CONCURRENTLY {each.identity};"
        for each in inventory.unfit
        if each.thing.kind == "index"
    }
    if not wrong:
        return fine("indexes", f"{len(expected().of('index'))}: all there and valid")
    return problem("indexes", some(list(wrong)), *wrong.values())
