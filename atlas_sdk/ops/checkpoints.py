"""Create and list checkpoints."""

from atlas_sdk._plan import Plan, atomic, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists
from atlas_sdk.model.checkpoints import Checkpoint
from atlas_sdk.model.projects import Project
from atlas_sdk.names import checkpoint_name
from atlas_sdk.ops.checks import bounded
from atlas_sdk.ops.delivery import deliver_first
from atlas_sdk.ops.new_checkpoint import announce, create
from atlas_sdk.text import quoted

__all__ = ["checkpoint", "checkpoints"]

sql = statements("checkpoints")

#: The longest note: a page of text.
_NOTE_LENGTH = 4_000


def checkpoint(project: Project, name: str, *, note: str | None = None) -> Plan[Checkpoint]:
    """Name the newest version of every file of a project, all at one instant.

    A checkpoint names recorded versions: call `capture` first to record the folder's present content. Names are unique
    in a project. Checkpoints are never pruned. Raises AlreadyExists, InvalidInput.
    """
    remark = bounded("note", note, _NOTE_LENGTH, least=0)
    checkpoint_name(name)
    yield from deliver_first(project)
    return (yield from _checkpoint(project, name, remark))


@atomic
def _checkpoint(project: Project, name: str, note: str | None) -> Plan[Checkpoint]:
    made = yield from create(project.user_id, project.id, name, kind="named", note=note)
    if made is None:
        raise AlreadyExists(f"{project.name} has a checkpoint {quoted(name)} already", kind="checkpoint", name=name)
    yield from announce(made)
    return made


def checkpoints(project: Project) -> Plan[list[Checkpoint]]:
    """Return the checkpoints of a project, newest first."""
    return (yield from many(sql["list"], Checkpoint, user_id=project.user_id, project_id=project.id))
