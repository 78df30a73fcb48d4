"""Deliver the records of the journal to the database, in order.

Two processes may deliver the same records at the same time. The id of a record becomes the id of its version, so the
second delivery stores nothing; and each process delivers the records of a file in their order, so that the second
process can never put an older version on top of a newer one. Therefore no lock is needed.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from attrs import define, field

from atlas_sdk._context import Context
from atlas_sdk._heads import Key
from atlas_sdk._plan import Plan, context, local, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AtlasError, InvalidInput, JournalProblem, NotFound
from atlas_sdk.files import named
from atlas_sdk.journal import Journal, Record
from atlas_sdk.model.delivery import Delivery
from atlas_sdk.model.projects import Project
from atlas_sdk.ops.amounts import count
from atlas_sdk.ops.append_many import append_many
from atlas_sdk.ops.new_checkpoint import deliver_checkpoint
from atlas_sdk.ops.new_version import NewVersion, Refused

__all__ = ["deliver", "deliver_first"]

_log = logging.getLogger(__name__)

#: The default number of records of one call, and the most.
_LIMIT, _LIMIT_MAX = 500, 10_000
#: Try a record again after this time if the database refused it: a limit may have room then, or a project may be back.
_AGAIN = timedelta(minutes=1)
#: Try a record again after this time if the database can never hold it; a newer version of this package may know how.
_LATER = timedelta(hours=12)


@define
class _Result:
    """The part of a delivery that is done."""

    done: list[UUID] = field(factory=list)
    #: The first refused record of each file, or checkpoint, with the reason.
    refused: list[tuple[Record, AtlasError]] = field(factory=list)
    sentences: list[str] = field(factory=list)
    #: Files and projects of which no more may be delivered in this call.
    files: set[Key] = field(factory=set)
    projects: set[UUID] = field(factory=set)

    def refuse(self, record: Record, problem: AtlasError) -> None:
        self.refused.append((record, problem))
        self.sentences.append(str(problem))


def deliver(*, limit: int = _LIMIT) -> Plan[Delivery]:
    """Deliver the first records of the journal of this client's home: versions that were captured without the database.

    The versions of a file, and the checkpoints of a project, keep their order; each version has the time of its
    capture. A record that the database refuses stays in the journal and is tried again later; others go on. A client
    that acts for one user delivers that user's records. `limit` is the most records of one call. In a transaction the
    records stay in the journal until the next delivery after the commit. Raises JournalProblem if the journal cannot be
    read, or cannot be changed because the disk is full; then the records that are stored are sent once more later.
    """
    count("limit", limit, _LIMIT_MAX, least=1)
    ctx = yield from context()
    journal = yield from local(ctx.journal.find)
    if journal is None:
        return Delivery()
    result = _Result()
    records = yield from _pending(ctx, journal, limit=limit)
    yield from _deliver(ctx, journal, records, result)
    remaining = yield from local(journal.status)
    return Delivery(
        delivered=len(result.done), remaining=remaining.records, problems=tuple(dict.fromkeys(result.sentences))
    )


def deliver_first(project: Project) -> Plan[None]:
    """Deliver the journal's records of a project, before a direct write to it.

    So the history of a file is in the order in which the file was on the disk. Without records this costs one look at
    the journal. A record that the database refuses does not stop the writer.
    """
    ctx = yield from context()
    if ctx.journal.is_empty():
        return
    ctx.require_tenant(project.user_id)
    try:
        journal = yield from local(ctx.journal.find)
        if journal is None:
            return
        result = _Result()
        # Try the records that were held back once more: the writer must not come before them without need.
        records = yield from _pending(ctx, journal, project=project, held_too=True)
        while records:
            before = len(result.done)
            yield from _deliver(ctx, journal, records, result)
            if len(result.done) == before:
                return
            records = yield from _pending(ctx, journal, project=project)
    except JournalProblem as problem:
        _log.warning("%s; %s is written without the versions in it", problem, named(project.path))


def _pending(
    ctx: Context,
    journal: Journal,
    *,
    limit: int = _LIMIT,
    project: Project | None = None,
    held_too: bool = False,
) -> Plan[list[Record]]:
    skipped = ctx.delivered or ()
    if project is None:
        return (yield from local(journal.pending, limit=limit, user=ctx.tenant, skipped=skipped))
    return (
        yield from local(
            journal.pending, project.id, limit=limit, held_too=held_too, user=project.user_id, skipped=skipped
        )
    )


def _deliver(ctx: Context, journal: Journal, records: Sequence[Record], result: _Result) -> Plan[None]:
    """Deliver records in order; then remove them from the journal, and hold back those that were refused."""
    done_before, refused_before = len(result.done), len(result.refused)
    batch: list[Record] = []
    for record in records:
        if record.op != "checkpoint":
            batch.append(record)
            continue
        yield from _store(batch, result)
        batch = []
        yield from _checkpoint(record, result)
    yield from _store(batch, result)
    done = result.done[done_before:]
    if ctx.delivered is not None:
        # A rollback of the open transaction would undo the delivery.
        ctx.delivered.update(done)
        return
    # If the disk is full, the records stay in the journal, and the next delivery finds their ids in the database.
    yield from local(journal.delivered, done)
    for record, problem in result.refused[refused_before:]:
        yield from local(_hold_back, journal, record, problem)


def _hold_back(journal: Journal, record: Record, problem: AtlasError) -> None:
    forever = isinstance(problem, InvalidInput)
    journal.hold_back(record.id, str(problem), _LATER if forever else _AGAIN, blocks=not forever)


def _store(records: Sequence[Record], result: _Result) -> Plan[None]:
    """Store versions and deletions."""
    sent = [
        record for record in records if record.project_id not in result.projects and _key(record) not in result.files
    ]
    if not sent:
        return
    made = yield from append_many([_new_version(record) for record in sent])
    for record, one in zip(sent, made, strict=True):
        if not isinstance(one, Refused):
            result.done.append(record.id)
        elif _key(record) not in result.files:
            problem = one.problem
            if record.op == "deletion" and isinstance(problem, NotFound) and problem.kind == "file":
                keys = {"user_id": record.user_id, "project_id": record.project_id}
                if (yield from scalar(statements("memory")["has_project"], bool, **keys)):
                    # The file was made and deleted before any version of it was stored.
                    result.done.append(record.id)
                    continue
                message = f"{named(record.path)}: its project does not exist in this database"
                problem = NotFound(message, kind="project", name=str(record.project_id))
            result.files.add(_key(record))
            result.refuse(record, problem)


def _key(record: Record) -> Key:
    return record.user_id, record.project_id, record.path


def _new_version(record: Record) -> NewVersion:
    return NewVersion(
        user_id=record.user_id,
        project_id=record.project_id,
        path=record.path,
        content=record.content,
        sha256=record.sha256,
        size=record.size,
        mode=record.mode,
        link=record.link,
        folder_modes=record.folder_modes,
        kind=record.kind,
        context=record.context,
        reason=record.reason,
        attribution=record.attribution,
        snapshot_id=record.id,
        captured_at=record.captured_at,
    )


def _checkpoint(record: Record, result: _Result) -> Plan[None]:
    """Make a checkpoint, unless a version before it could not be stored."""
    if record.project_id in result.projects or any(key[1] == record.project_id for key in result.files):
        # A later version must not become a part of the checkpoint.
        result.projects.add(record.project_id)
        return
    try:
        name = yield from deliver_checkpoint(record)
    except (NotFound, InvalidInput) as problem:
        result.projects.add(record.project_id)
        result.refuse(record, problem)
        return
    result.done.append(record.id)
    if name != record.name:
        result.sentences.append(
            f"another checkpoint got the name {named(record.name or '')} meanwhile, so the one of "
            f"{record.captured_at:%Y-%m-%d %H:%M:%S} UTC is {named(name)}"
        )
