"""The inventory: the objects that the migrations make, and the objects that a database has.

`python tests/inventory.py` writes `sql/inventory.json` from the catalogue of a migrated database. A line has one
object: kind, name, table, rule, and the command that makes it. For a table, a view or a function, that command is in a
migration. The inventory is a file because a login that examines a database may have no right to create another one to
compare with.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Final

from attrs import field, frozen

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import sql_root, statements
from atlas_sdk.provision.roles import APP
from atlas_sdk.provision.steps import Job
from atlas_sdk.text import some

__all__ = ["FILE", "REMADE", "Catalogue", "Found", "Inventory", "Thing", "expected", "take", "verify"]

sql = statements("provision")

FILE: Final = sql_root() / "inventory.json"
#: The kinds of missing objects that a set-up makes again: they hold no rows, and it takes no time to make them.
REMADE: Final = ("function", "view", "trigger")
_KINDS: Final = {
    "table": "tables",
    "view": "views",
    "function": "functions",
    "trigger": "triggers",
    "index": "indexes",
    "policy": "policies",
}


@frozen
class Thing:
    """One object of the schema."""

    #: "table", "view", "function", "type", "index", "trigger", "policy"; "privilege": a right of atlas_app on a table.
    kind: str
    name: str
    #: The table of an index, a trigger, a policy or a privilege.
    on_table: str | None = None
    #: The property that the isolation of tenants needs. For a table: "row_security". For a view: "security_invoker".
    #: For a function: "definer" or "invoker", and "pinned" if it looks for tables in its own schema. For a policy: its
    #: terms. For a privilege: its columns, None for all.
    rule: str | None = field(default=None, eq=False)
    #: The command that makes the object; None if a migration has it.
    making: str | None = field(default=None, eq=False, repr=False)

    def __str__(self) -> str:
        return self.name if self.on_table is None else f"{self.name} on {self.on_table}"


@frozen(kw_only=True)
class Found:
    """One object of a database."""

    thing: Thing
    #: False for an invalid index and a disabled trigger.
    is_fit: bool
    #: True for a policy that gives atlas_app access to rows.
    reaches: bool
    #: The object's name in a command.
    identity: str


@frozen
class Catalogue:
    """All objects that the migrations make."""

    things: tuple[Thing, ...]

    def of(self, kind: str) -> dict[tuple[str, str | None], Thing]:
        """Return the objects of a kind, by name and table."""
        return {(thing.name, thing.on_table): thing for thing in self.things if thing.kind == kind}

    def names(self, *kinds: str) -> list[str]:
        """Return the names of the objects of some kinds, sorted."""
        return sorted({thing.name for thing in self.things if thing.kind in kinds})

    def privileges(self) -> dict[tuple[str, str], set[str] | None]:
        """Return the rights of atlas_app: the columns by table and statement, None for all columns."""
        return {
            (table or "", name): None if thing.rule is None else set(thing.rule.split())
            for (name, table), thing in self.of("privilege").items()
        }


@cache
def expected() -> Catalogue:
    """Return the objects that the migrations of this package make."""
    return Catalogue(tuple(Thing(*row) for row in json.loads(FILE.read_text("utf-8"))))


@frozen(kw_only=True)
class Inventory:
    """The objects that a database has, and the differences from the expected ones."""

    found: tuple[Found, ...]
    #: Expected objects that the database does not have.
    missing: tuple[Thing, ...]
    #: Invalid indexes and disabled triggers, which exist but have no effect.
    unfit: tuple[Found, ...]

    def changed(self, kind: str) -> Iterator[tuple[Found, Thing]]:
        """Yield the objects of a kind that do not follow their rule, each with the expected object."""
        ours = expected().of(kind)
        for each in self.found:
            wanted = ours.get((each.thing.name, each.thing.on_table))
            if each.thing.kind == kind and wanted is not None and wanted.rule not in {None, each.thing.rule}:
                yield each, wanted


def take(session: AdminSession, schema: str) -> Inventory:
    """Return the objects of a schema, compared with those that the migrations of this package make."""
    found = tuple(
        Found(
            thing=Thing(row["kind"], row["name"], row["on_table"], row["rule"]),
            is_fit=row["is_fit"],
            reaches=row["reaches"],
            identity=row["identity"],
        )
        for row in session.rows(sql["inventory"], schema=schema, role=APP)
        if row["kind"] != "privilege"
    )
    there, ours = {each.thing for each in found}, set(expected().things)
    return Inventory(
        found=found,
        missing=tuple(thing for thing in expected().things if thing not in there and thing.kind != "privilege"),
        unfit=tuple(each for each in found if not each.is_fit and each.thing in ours),
    )


def verify(job: Job, session: AdminSession, schema: str) -> None:
    """Record a step for each kind of object: "done" if all objects are there, else "failed"."""
    inventory = take(session, schema)
    for kind, plural in _KINDS.items():
        wrong = [str(thing) for thing in inventory.missing if thing.kind == kind]
        wrong += [str(each.thing) for each in inventory.unfit if each.thing.kind == kind]
        if kind == "policy":
            # Without row-level security, the policies of a table do nothing.
            wrong += [str(each.thing) for each, _ in inventory.changed("table")]
        if not wrong:
            job.note(plural, "done", f"all {len(expected().of(kind))}")
            continue
        job.note(plural, "failed", f"missing or out of order: {some(wrong)}; atlasctl db doctor tells how to mend it")
