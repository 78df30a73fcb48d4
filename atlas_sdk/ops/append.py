"""Append a version, by compare-and-set on the newest version. The content is stored as a delta."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._context import Context
from atlas_sdk._plan import Json, Plan, atomic, context, execute, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import IntegrityFailure, NotFound
from atlas_sdk.files import named
from atlas_sdk.model.blobs import Blob, encode
from atlas_sdk.model.memory import Head, Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops import memory_usage
from atlas_sdk.ops.contents import Content, blob_content
from atlas_sdk.ops.heads import keys_of, read_head
from atlas_sdk.ops.new_version import NewVersion, no_file, odd_modes

__all__ = ["append", "append_deletion", "append_in_turn"]

sql = statements("memory")

#: Seconds for which a cached head counts as the newest version without a query, if the file's shared stamp is unchanged
#: too. The limit is for a client that is killed after its commit, before it changes the stamp.
HEAD_TRUST_S = 1.0


def append(
    project: Project,
    state: Content,
    *,
    kind: str,
    extra: Mapping[str, object] | None = None,
    reason: str | None = None,
) -> Plan[Snapshot | None]:
    """Append a version; return None when it equals the newest one.

    The first attempt is a compare-and-set. If another client was faster, the call locks the file and tries again.
    Raises QuotaExceeded when the user's memory limit is hard and the content does not fit.
    """
    new = NewVersion.of(project, state, kind=kind, context=extra, reason=reason)
    ctx = yield from context()
    ctx.require_tenant(new.user_id)
    head = ctx.heads.get(new.key)
    if head is not None and new.repeats(head):
        fresh = ctx.monotonic() - head.confirmed_at < HEAD_TRUST_S
        if not (fresh and ctx.heads.is_newest(new.key, head)):
            head = yield from read_head(new.key, known=head)
    head = head or (yield from read_head(new.key))
    if head is not None and new.repeats(head):
        return None
    made = yield from _put(new, head, (yield from _encode(new, head)))
    if made is not None:
        return made
    # Another client appended a version in between, or a hard limit refused this version. Lock the file: on a busy file,
    # most further attempts without a lock would fail.
    ctx.heads.drop(new.key)
    return (yield from append_in_turn(new, known=head))


@atomic
def append_in_turn(new: NewVersion, *, known: Head | None = None) -> Plan[Snapshot | None]:
    """Lock the file, read its newest version and append; return None when there is nothing to append.

    The newest version is often a delta from the version `known`, whose content need not be fetched again. Raises
    QuotaExceeded; NotFound if the project is gone, and for the deletion of a file without versions.
    """
    keys = keys_of(new.key)
    yield from memory_usage.lock_memory_limit(new.user_id)
    while True:
        locked = yield from one_or_none(sql["lock"], _Locked, **keys)
        if new.snapshot_id is not None and (yield from scalar(sql["knows"], bool, id=new.snapshot_id, **keys)):
            return None
        head = yield from read_head(new.key)
        if head is not None and new.repeats(head):
            if new.snapshot_id is not None:
                yield from execute(sql["note_equal"], id=new.snapshot_id, head_id=head.snapshot_id, **keys)
            return None
        if new.sha256 is None:
            made = yield from _put_deletion(new, head)
            if made is not None:
                return made
            continue
        if locked is None and not (
            yield from scalar(sql["has_project"], bool, user_id=new.user_id, project_id=new.project_id)
        ):
            message = f"{named(new.path)}: its project does not exist (any more)"
            raise NotFound(message, kind="project", name=str(new.project_id))
        blob = yield from _encode(new, head, known=known)
        # Plain SQL may have deleted the row of the newest version, so that `head` is None. Append after that version
        # all the same.
        made = yield from _put(new, head, blob, after=None if locked is None else locked.snapshot_id)
        if made is not None:
            return made
        # If a hard limit refused the version, raise its error. If not, there was no file to lock and another client has
        # made the file since: try again.
        yield from memory_usage.refuse(new.user_id, blob)


@frozen(kw_only=True)
class _Locked:
    snapshot_id: UUID


@frozen(kw_only=True)
class _Stamp:
    seq: int
    created_at: datetime
    #: The depth of the content in its chain of deltas; None for a deletion, and if only the hash is stored.
    stored_depth: int | None = None


def _put(new: NewVersion, head: Head | None, blob: Blob, *, after: UUID | None = None) -> Plan[Snapshot | None]:
    """Append after `head`. Return None if `head` is not the newest version now, or a hard limit refuses the content."""
    ctx = yield from context()
    seen = ctx.heads.stamp(new.key)
    new_id = new.snapshot_id or ctx.new_id()
    stamp = yield from one_or_none(
        sql["put"],
        _Stamp,
        id=new_id,
        head_id=after if head is None else head.snapshot_id,
        size=new.size,
        depth=blob.depth,
        sha256=blob.sha256,
        base_sha256=blob.base_sha256,
        data=blob.data,
        link=new.link,
        folder_modes=odd_modes(new.folder_modes),
        **_facts(new, head, ctx),
    )
    if stamp is None:
        return None
    if stamp.stored_depth is not None:
        blob = evolve(blob, depth=stamp.stored_depth)
    written = Head(
        snapshot_id=new_id,
        seq=stamp.seq,
        sha256=blob.sha256,
        mode=new.mode_after(head),
        link=new.link,
        created_at=stamp.created_at,
        blob=None if blob.data is None else blob,
        content=new.content,
        confirmed_at=ctx.monotonic(),
    )
    ctx.heads.written(new.key, written, seen=seen)
    return new.stored(ctx, new_id, head, seq=stamp.seq, created_at=stamp.created_at)


def _facts(new: NewVersion, head: Head | None, ctx: Context) -> dict[str, object]:
    """Return the parameters that the statements for contents and for deletions have in common."""
    return {
        **keys_of(new.key),
        "mode": new.mode_after(head),
        "kind": new.kind,
        "context": None if new.context is None else Json(dict(new.context)),
        "attribution": Json(new.author(ctx).to_json()),
        "captured_at": new.captured_at,
        "not_before": None if head is None else head.created_at,
    }


def _encode(new: NewVersion, head: Head | None, *, known: Head | None = None) -> Plan[Blob]:
    """Encode the content, as a delta from the stored content of `head` if there is one."""
    if new.sha256 is None:
        message = "a deletion has no content"
        raise AssertionError(message)
    if new.content is None:
        return Blob.absent(new.sha256, new.size)
    if head is None or head.blob is None:
        return encode(new.content, sha256=new.sha256)
    base = head.content
    if base is None:
        try:
            base = yield from blob_content(new.user_id, head.blob.sha256, path=new.path, known=known)
        except IntegrityFailure:
            # The old version is damaged, so the new one must not depend on it. `verify` reports the damage.
            return encode(new.content, sha256=new.sha256)
    return encode(new.content, sha256=new.sha256, base=head.blob, base_content=base)


def append_deletion(project: Project, path: str, *, kind: str, reason: str | None = None) -> Plan[Snapshot | None]:
    """Append a deletion; return None when the file is deleted already. Raises NotFound for a file without versions."""
    new = NewVersion(user_id=project.user_id, project_id=project.id, path=path, kind=kind, reason=reason)
    ctx = yield from context()
    ctx.require_tenant(new.user_id)
    while True:
        head = ctx.heads.get(new.key)
        if head is None or head.sha256 is None:
            # Do not trust a cached deletion: another client may have written the file since.
            head = yield from read_head(new.key)
        if head is not None and head.sha256 is None:
            return None
        made = yield from _put_deletion(new, head, project=project.name)
        if made is not None:
            return made


def _put_deletion(new: NewVersion, head: Head | None, *, project: str | None = None) -> Plan[Snapshot | None]:
    """Append the deletion after `head`. Return None if `head` is not the newest version now. Raises NotFound."""
    if head is None:
        raise no_file(new, project=project)
    ctx = yield from context()
    new_id = new.snapshot_id or ctx.new_id()
    stamp = yield from one_or_none(
        sql["put_deletion"], _Stamp, id=new_id, head_id=head.snapshot_id, **_facts(new, head, ctx)
    )
    if stamp is None:
        ctx.heads.drop(new.key)
        return None
    ctx.heads.deleted(new.key)
    return new.stored(ctx, new_id, head, seq=stamp.seq, created_at=stamp.created_at)
