"""Appending a version: compare-and-set on the newest one, content as a delta."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._plan import Json, Plan, atomic, context, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import IntegrityFailure, NotFound
from atlas_sdk.files import named, to_text
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.blobs import Blob, encode
from atlas_sdk.model.memory import Head, Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops import memory_usage
from atlas_sdk.ops.contents import Content, blob_content

__all__ = ["Incoming", "append", "append_deletion"]

sql = statements("memory")

#: A head is believed without asking for this long (seconds), and only while the shared mark of its file stands. The
#: mark tells of every version but those of a client that was killed between its commit and its mark.
HEAD_TRUST_S = 1.0
#: Of a folder that nobody cared about.
_USUAL_MODE = 0o755


@frozen(kw_only=True)
class Incoming:
    """A content that did not come from the disk."""

    path: str
    content: bytes | None
    sha256: bytes
    size: int
    #: Permission bits; -1: whatever the file has.
    mode: int = -1
    link: str | None = None
    #: Permission bits of the folders above the file, outermost first.
    folder_modes: tuple[int, ...] = ()


def append(
    project: Project,
    state: Content,
    *,
    kind: str,
    extra: Mapping[str, object] | None = None,
    reason: str | None = None,
    snapshot_id: UUID | None = None,
) -> Plan[Snapshot | None]:
    """Append a version unless it equals the newest one: compare and set, and when that is lost, in turn.

    Raises QuotaExceeded when the user's memory limit is hard and does not let the content in.
    """
    ctx = yield from context()
    ctx.require_tenant(project.user_id)
    key = (project.user_id, project.id, state.path)
    head = ctx.heads.get(key)
    if head is not None and _same(head, state):
        fresh = ctx.monotonic() - head.confirmed_at < HEAD_TRUST_S
        if not (fresh and ctx.heads.is_newest(key, head)):
            head = yield from _read_head(project, state.path, known=head)
    head = head or (yield from _read_head(project, state.path))
    if head is not None and _same(head, state):
        return None
    made = yield from _put(project, state, head, kind=kind, extra=extra, reason=reason, snapshot_id=snapshot_id)
    if made is not None:
        return made
    # Somebody else appended a version in between, or a hard limit refused it. Queue for the file instead of racing
    # again: on a busy file most tries would be lost.
    ctx.heads.drop(key)
    return (
        yield from _append_in_turn(
            project, state, known=head, kind=kind, extra=extra, reason=reason, snapshot_id=snapshot_id
        )
    )


@atomic
def _append_in_turn(
    project: Project,
    state: Content,
    *,
    known: Head | None,
    kind: str,
    extra: Mapping[str, object] | None,
    reason: str | None,
    snapshot_id: UUID | None,
) -> Plan[Snapshot | None]:
    """Lock the file, look at its newest version, append. `known` is likely what that one was made from."""
    while True:
        keys = {"user_id": project.user_id, "project_id": project.id, "path": to_text(state.path)}
        locked = yield from one_or_none(sql["lock"], _Locked, **keys)
        head = yield from _read_head(project, state.path)
        if head is not None and _same(head, state):
            return None
        made = yield from _put(
            project,
            state,
            head,
            # Somebody may have deleted the row of the newest version by hand: go on after it all the same.
            after=None if locked is None else locked.snapshot_id,
            known=known,
            kind=kind,
            extra=extra,
            reason=reason,
            snapshot_id=snapshot_id,
            in_turn=True,
        )
        # None: there was no file to lock, and somebody made it just now.
        if made is not None:
            return made


def _same(head: Head, state: Content) -> bool:
    # A mode of -1 is "not given": whatever the file has.
    modes_agree = state.mode in {-1, head.mode}
    if state.content is not None and head.blob is None:
        # Only the hash is on record, from a time when the file was over the limit: now its content can be kept.
        return False
    return head.sha256 == state.sha256 and modes_agree and head.link == state.link


@frozen(kw_only=True)
class _HeadRow:
    seq: int
    snapshot_id: UUID
    sha256: bytes | None
    mode: int
    link: str | None
    blob_sha256: bytes
    blob_size: int
    blob_depth: int
    blob_kept: bool


def _read_head(project: Project, path: str, *, known: Head | None = None) -> Plan[Head | None]:
    """Read the newest version, without its content: that is fetched only when a delta is to be made.

    When it is still the one that is `known`, that one is confirmed, content and all.
    """
    ctx = yield from context()
    key = (project.user_id, project.id, path)
    seen = ctx.heads.stamp(key)
    keys = {"user_id": project.user_id, "project_id": project.id, "path": to_text(path)}
    row = yield from one_or_none(sql["head"], _HeadRow, **keys)
    if row is None:
        return None
    if known is not None and known.snapshot_id == row.snapshot_id:
        confirmed = evolve(known, confirmed_at=ctx.monotonic(), stamp=seen)
        ctx.heads.put(key, confirmed)
        return confirmed
    head = Head(
        snapshot_id=row.snapshot_id,
        seq=row.seq,
        sha256=row.sha256,
        mode=row.mode,
        link=row.link,
        blob=Blob(sha256=row.blob_sha256, size=row.blob_size, depth=row.blob_depth) if row.blob_kept else None,
        confirmed_at=ctx.monotonic(),
        stamp=seen,
    )
    ctx.heads.put(key, head)
    return head


@frozen(kw_only=True)
class _Locked:
    snapshot_id: UUID


@frozen(kw_only=True)
class _Stamp:
    seq: int
    created_at: datetime
    #: Where content that was stored before stands in its chain; None for new content.
    stored_depth: int | None = None


def _put(
    project: Project,
    state: Content,
    head: Head | None,
    *,
    after: UUID | None = None,
    known: Head | None = None,
    kind: str,
    extra: Mapping[str, object] | None,
    reason: str | None,
    snapshot_id: UUID | None,
    in_turn: bool = False,
) -> Plan[Snapshot | None]:
    """Try to append after `head`; None when that is not the newest version any more, or a hard limit refuses.

    `in_turn` the latter raises QuotaExceeded.
    """
    ctx = yield from context()
    if head is not None and state.content is not None:
        head = yield from _with_content(project, state.path, head, known=known)
    blob = _encode(state, head)
    attribution = ctx.attribution if reason is None else evolve(ctx.attribution, reason=reason)
    mode = state.mode if state.mode >= 0 else (0o644 if head is None else head.mode)
    new_id = snapshot_id or ctx.new_id()
    key = (project.user_id, project.id, state.path)
    seen = ctx.heads.stamp(key)
    stamp = yield from one_or_none(
        sql["put"],
        _Stamp,
        user_id=project.user_id,
        project_id=project.id,
        id=new_id,
        head_id=after if head is None else head.snapshot_id,
        path=to_text(state.path),
        size=state.size,
        depth=blob.depth,
        sha256=blob.sha256,
        base_sha256=blob.base_sha256,
        data=blob.data,
        mode=mode,
        kind=kind,
        link=state.link,
        folder_modes=_odd_modes(state.folder_modes),
        context=None if extra is None else Json(dict(extra)),
        attribution=Json(attribution.to_json()),
    )
    if stamp is None:
        if in_turn:
            yield from memory_usage.refuse(project.user_id, blob)
        return None
    if stamp.stored_depth is not None:
        blob = evolve(blob, depth=stamp.stored_depth)
    ctx.heads.written(
        key,
        Head(
            snapshot_id=new_id,
            seq=stamp.seq,
            sha256=blob.sha256,
            mode=mode,
            link=state.link,
            blob=None if blob.data is None else blob,
            content=state.content,
            confirmed_at=ctx.monotonic(),
        ),
        seen=seen,
    )
    return _made(project, state.path, new_id, stamp, kind, attribution, state=state, mode=mode, extra=extra)


def _odd_modes(modes: tuple[int, ...]) -> list[int] | None:
    """Return the modes of folders for the database; None for the usual ones, which take no room in a row."""
    return list(modes) if any(mode != _USUAL_MODE for mode in modes) else None


def _made(
    project: Project,
    path: str,
    new_id: UUID,
    stamp: _Stamp,
    kind: str,
    attribution: Attribution,
    *,
    mode: int,
    state: Content | None = None,
    extra: Mapping[str, object] | None = None,
) -> Snapshot:
    return Snapshot(
        id=new_id,
        user_id=project.user_id,
        project_id=project.id,
        path=to_text(path),
        seq=stamp.seq,
        kind=kind,
        sha256=None if state is None else state.sha256,
        size=0 if state is None else state.size,
        mode=mode,
        link=None if state is None else state.link,
        folder_modes=() if state is None else _odd_modes(state.folder_modes),
        context=extra,
        attribution=attribution,
        created_at=stamp.created_at,
    )


def _with_content(project: Project, path: str, head: Head, *, known: Head | None) -> Plan[Head]:
    """Fetch the content that the next delta is made with, unless the head has it."""
    if head.content is not None or head.blob is None:
        return head
    try:
        content = yield from blob_content(project.user_id, head.blob.sha256, path=path, known=known)
    except IntegrityFailure:
        # An old version is damaged: the new one must not depend on it. `verify` reports it.
        return evolve(head, blob=None)
    return evolve(head, content=content)


def _encode(state: Content, head: Head | None) -> Blob:
    if state.content is None:
        return Blob.absent(state.sha256, state.size)
    if head is None:
        return encode(state.content, sha256=state.sha256)
    return encode(state.content, sha256=state.sha256, base=head.blob, base_content=head.content)


def append_deletion(project: Project, path: str, *, kind: str, reason: str | None = None) -> Plan[Snapshot | None]:
    """Record that a file is gone; None when the newest version says so already. Raises NotFound for an unknown file."""
    ctx = yield from context()
    ctx.require_tenant(project.user_id)
    attribution = ctx.attribution if reason is None else evolve(ctx.attribution, reason=reason)
    while True:
        head = ctx.heads.get((project.user_id, project.id, path))
        if head is None or head.sha256 is None:
            # "Deleted already" is never taken from memory: another client may have written the file since.
            head = yield from _read_head(project, path)
        if head is None:
            raise NotFound(
                f"{named(path)}: no such file, and no version of it in {named(project.name)}",
                kind="file",
                name=path,
            )
        if head.sha256 is None:
            return None
        new_id = ctx.new_id()
        stamp = yield from one_or_none(
            sql["put_deletion"],
            _Stamp,
            user_id=project.user_id,
            project_id=project.id,
            id=new_id,
            head_id=head.snapshot_id,
            path=to_text(path),
            mode=head.mode,
            kind=kind,
            attribution=Json(attribution.to_json()),
        )
        if stamp is None:
            ctx.heads.drop((project.user_id, project.id, path))
        else:
            ctx.heads.deleted((project.user_id, project.id, path))
            return _made(project, path, new_id, stamp, kind, attribution, mode=head.mode)
