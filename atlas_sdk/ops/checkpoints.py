"""Create and list checkpoints."""

from atlas_sdk._plan import Json, Plan, atomic, context, many, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists
from atlas_sdk.model.checkpoints import Checkpoint
from atlas_sdk.model.projects import Project
from atlas_sdk.names import checkpoint_name
from atlas_sdk.ops import events, projects
from atlas_sdk.ops.checks import bounded
from atlas_sdk.text import quoted

__all__ = ["checkpoint", "checkpoints"]

sql = statements("checkpoints")

#: The longest note: a page of text.
_NOTE_LENGTH = 4_000


@atomic
def checkpoint(project: Project, name: str, *, note: str | None = None) -> Plan[Checkpoint]:
    """Name the newest version of every file of a project, all at one instant.

    A checkpoint names recorded versions: call `capture` first to record the folder's present content. Names are unique
    in a project. Checkpoints are never pruned. Raises AlreadyExists, InvalidInput.
    """
    remark = bounded("note", note, _NOTE_LENGTH, least=0)
    made = yield from create(project, checkpoint_name(name), kind="named", note=remark)
    if made is None:
        raise AlreadyExists(f"{project.name} has a checkpoint {quoted(name)} already", kind="checkpoint", name=name)
    yield from projects.remember_memory(project)
    yield from events.record(
        "checkpoint.created",
        user_id=project.user_id,
        project_id=project.id,
        meta={"checkpoint": made.name, "files": made.files},
    )
    return made


def create(project: Project, name: str, *, kind: str, note: str | None = None) -> Plan[Checkpoint | None]:
    """Create a checkpoint; return None when the name is taken."""
    ctx = yield from context()
    return (
        yield from one_or_none(
            sql["create"],
            Checkpoint,
            user_id=project.user_id,
            project_id=project.id,
            id=ctx.new_id(),
            name=name,
            kind=kind,
            note=note,
            attribution=Json(ctx.attribution.to_json()),
        )
    )


def checkpoints(project: Project) -> Plan[list[Checkpoint]]:
    """Return the checkpoints of a project, newest first."""
    return (yield from many(sql["list"], Checkpoint, user_id=project.user_id, project_id=project.id))
