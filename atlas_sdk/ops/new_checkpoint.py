"""Make a checkpoint: at once, or later from a record of the journal."""

from datetime import datetime
from itertools import count
from uuid import UUID

from atlas_sdk._plan import Json, Plan, atomic, context, execute, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotFound
from atlas_sdk.journal import Record
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.checkpoints import Checkpoint
from atlas_sdk.names import NAME_LENGTH, checkpoint_name
from atlas_sdk.ops import events

__all__ = ["announce", "create", "deliver_checkpoint"]

sql = statements("checkpoints")


def create(
    user_id: UUID,
    project_id: UUID,
    name: str,
    *,
    kind: str,
    note: str | None = None,
    checkpoint_id: UUID | None = None,
    attribution: Attribution | None = None,
    captured_at: datetime | None = None,
) -> Plan[Checkpoint | None]:
    """Make a checkpoint; return None when the name or the id is taken."""
    ctx = yield from context()
    return (
        yield from one_or_none(
            sql["create"],
            Checkpoint,
            user_id=user_id,
            project_id=project_id,
            id=checkpoint_id or ctx.new_id(),
            name=name,
            kind=kind,
            note=note,
            attribution=Json((attribution or ctx.attribution).to_json()),
            captured_at=captured_at,
        )
    )


def announce(made: Checkpoint) -> Plan[None]:
    """Record the event of a new checkpoint, and the size of the project's memory."""
    keys = {"user_id": made.user_id, "project_id": made.project_id}
    yield from execute(statements("projects")["remember_memory"], **keys)
    yield from events.record("checkpoint.created", meta={"checkpoint": made.name, "files": made.files}, **keys)


@atomic
def deliver_checkpoint(record: Record) -> Plan[str]:
    """Make the checkpoint of a record of the journal, once; return its name.

    If another checkpoint got the name meanwhile, a number is added. Raises NotFound if the project is gone.
    """
    wanted = checkpoint_name(record.name or "")
    keys = {"user_id": record.user_id, "project_id": record.project_id}
    if not (yield from scalar(statements("memory")["has_project"], bool, **keys)):
        raise NotFound(
            f"the checkpoint {wanted}: its project does not exist (any more)",
            kind="project",
            name=str(record.project_id),
        )
    note = (record.context or {}).get("note")
    for number in count(1):
        there = yield from one_or_none(sql["name_of"], _name, id=record.id, **keys)
        if there is not None:
            return there
        ending = "" if number == 1 else f"-{number}"
        made = yield from create(
            record.user_id,
            record.project_id,
            wanted[: NAME_LENGTH - len(ending)] + ending,
            kind="named",
            note=note if isinstance(note, str) else None,
            checkpoint_id=record.id,
            attribution=record.attribution,
            captured_at=record.captured_at,
        )
        if made is not None:
            yield from announce(made)
            return made.name
    raise AssertionError


def _name(*, name: str) -> str:
    return name
