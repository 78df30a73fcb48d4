"""Compare the objects of a schema with those that the migrations make."""

from typing import Final

from attrs import field, frozen

from atlas_sdk._sql import statements
from atlas_sdk.provision.script import Thing, expected
from atlas_sdk.provision.session import Session
from atlas_sdk.provision.steps import Job

__all__ = ["REMADE", "Inventory", "take", "verify"]

sql = statements("provision")

#: What setting up makes again where it is missing: it holds no rows, and making it holds up nobody for long.
REMADE: Final = frozenset({"function", "view", "trigger"})
_KINDS: Final = {
    "table": "tables",
    "view": "views",
    "function": "functions",
    "trigger": "triggers",
    "index": "indexes",
    "policy": "policies",
}


@frozen(kw_only=True)
class Inventory:
    """The difference between the objects that exist and those that should."""

    #: Objects that are not there.
    missing: tuple[Thing, ...] = ()
    #: Objects that are there and do no good: a table without row-level security, an invalid index, a disabled trigger.
    unfit: tuple[Thing, ...] = ()
    #: How many there should be of each kind.
    wanted: dict[str, int] = field(factory=dict)

    def of(self, *kinds: str) -> tuple[Thing, ...]:
        """Return what is missing or unfit of some kinds, sorted."""
        return tuple(sorted((t for t in (*self.missing, *self.unfit) if t.kind in kinds), key=str))


def take(session: Session, schema: str) -> Inventory:
    """Compare a schema with what the migrations of this package make."""
    rows = session.rows(sql["objects"], schema=schema)
    found = {Thing(row["kind"], row["name"], row["on_table"]): row["is_fit"] for row in rows}
    # Row-level security is on a table, whose own row tells.
    found |= {Thing("row security", thing.name): is_on for thing, is_on in list(found.items()) if thing.kind == "table"}
    things = expected().things
    return Inventory(
        missing=tuple(thing for thing in things if thing not in found and thing.kind != "row security"),
        unfit=tuple(thing for thing in things if not found.get(thing, True) and thing.kind != "table"),
        wanted={kind: len(expected().of(kind)) for kind in _KINDS},
    )


def verify(job: Job, session: Session, schema: str) -> None:
    """Put on record, kind by kind, whether everything is there."""
    inventory = take(session, schema)
    for kind, plural in _KINDS.items():
        wrong = inventory.of(kind, *(["row security"] if kind == "policy" else []))
        wanted = inventory.wanted[kind]
        if not wrong:
            job.note(plural, "done", f"all {wanted}")
            continue
        named = ", ".join(map(str, wrong[:3])) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")  # noqa: PLR2004
        job.note(plural, "failed", f"missing or out of order: {named}; atlasctl db doctor tells how to mend it")
