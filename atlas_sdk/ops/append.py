"""Append a version, by compare-and-set on the newest version. The content is stored as a delta."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._heads import Key
from atlas_sdk._plan import Json, Plan, atomic, context, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import IntegrityFailure, NotFound
from atlas_sdk.files import named, to_text
from atlas_sdk.model.blobs import Blob, encode
from atlas_sdk.model.memory import Head, Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops import memory_usage
from atlas_sdk.ops.contents import Content, blob_content

__all__ = ["Incoming", "append", "append_deletion"]

sql = statements("memory")

#: Trust a cached head without a query for this long (seconds), and only while its file's shared version is valid. The
#: limit covers a client that is killed after its commit, before it bumps the shared version.
HEAD_TRUST_S = 1.0
#: Permission bits of most folders.
_USUAL_MODE = 0o755


@frozen(kw_only=True)
class Incoming:
    """Content for a new version that was not read from the disk."""

    path: str
    content: bytes | None
    sha256: bytes
    size: int
    #: Permission bits; -1 means those of the newest version.
    mode: int = -1
    link: str | None = None
    #: Permission bits of the folders above the file, outermost first.
    folder_modes: tuple[int, ...] = ()


@frozen(kw_only=True)
class _New:
    """A version to append."""

    project: Project
    state: Content
    kind: str
    context: Mapping[str, object] | None
    reason: str | None
    snapshot_id: UUID | None

    @property
    def key(self) -> Key:
        return self.project.user_id, self.project.id, self.state.path


def append(
    project: Project,
    state: Content,
    *,
    kind: str,
    extra: Mapping[str, object] | None = None,
    reason: str | None = None,
    snapshot_id: UUID | None = None,
) -> Plan[Snapshot | None]:
    """Append a version; return None when it equals the newest one.

    The first attempt is a compare-and-set. If another client was faster, the call locks the file and tries again.
    Raises QuotaExceeded when the user's memory limit is hard and the content does not fit.
    """
    new = _New(project=project, state=state, kind=kind, context=extra, reason=reason, snapshot_id=snapshot_id)
    ctx = yield from context()
    ctx.require_tenant(project.user_id)
    head = ctx.heads.get(new.key)
    if head is not None and _same(head, state):
        fresh = ctx.monotonic() - head.confirmed_at < HEAD_TRUST_S
        if not (fresh and ctx.heads.is_newest(new.key, head)):
            head = yield from _read_head(project, state.path, known=head)
    head = head or (yield from _read_head(project, state.path))
    if head is not None and _same(head, state):
        return None
    made = yield from _put(new, head, (yield from _encode(new, head)))
    if made is not None:
        return made
    # Another client appended a version in between, or a hard limit refused this one. Lock the file: on a busy file,
    # most further attempts without a lock would fail.
    ctx.heads.drop(new.key)
    return (yield from _append_in_turn(new, known=head))


@atomic
def _append_in_turn(new: _New, *, known: Head | None) -> Plan[Snapshot | None]:
    """Lock the file, read its newest version and append. `known` is often the base of the newest version's delta."""
    project, state = new.project, new.state
    keys = {"user_id": project.user_id, "project_id": project.id, "path": to_text(state.path)}
    yield from memory_usage.lock_memory_limit(project.user_id)
    while True:
        locked = yield from one_or_none(sql["lock"], _Locked, **keys)
        head = yield from _read_head(project, state.path)
        if head is not None and _same(head, state):
            return None
        blob = yield from _encode(new, head, known=known)
        # Someone may have deleted the newest version's row with plain SQL. Append after that version all the same.
        made = yield from _put(new, head, blob, after=None if locked is None else locked.snapshot_id)
        if made is not None:
            return made
        # A hard limit refused the version, or there was no file to lock and another client has made the file since.
        yield from memory_usage.refuse(project.user_id, blob)


def _same(head: Head, state: Content) -> bool:
    # A mode of -1 means that the caller gave none.
    modes_agree = state.mode in {-1, head.mode}
    if state.content is not None and head.blob is None:
        # The file was over the size limit, so only its hash is stored. Its content can be stored now.
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
    """Read the newest version without its content, because only a delta needs the content.

    If the newest version is still `known`, return `known`, which has the content.
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
    #: The depth of the content in its chain of deltas; None for a deletion, and if only the hash is stored.
    stored_depth: int | None = None


def _put(new: _New, head: Head | None, blob: Blob, *, after: UUID | None = None) -> Plan[Snapshot | None]:
    """Append after `head`; return None when `head` is not the newest version any more, or a hard limit refuses."""
    ctx = yield from context()
    project, state = new.project, new.state
    attribution = ctx.attribution if new.reason is None else evolve(ctx.attribution, reason=new.reason)
    mode = state.mode if state.mode >= 0 else (0o644 if head is None else head.mode)
    new_id = new.snapshot_id or ctx.new_id()
    seen = ctx.heads.stamp(new.key)
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
        kind=new.kind,
        link=state.link,
        folder_modes=_odd_modes(state.folder_modes),
        context=None if new.context is None else Json(dict(new.context)),
        attribution=Json(attribution.to_json()),
    )
    if stamp is None:
        return None
    if stamp.stored_depth is not None:
        blob = evolve(blob, depth=stamp.stored_depth)
    written = Head(
        snapshot_id=new_id,
        seq=stamp.seq,
        sha256=blob.sha256,
        mode=mode,
        link=state.link,
        blob=None if blob.data is None else blob,
        content=state.content,
        confirmed_at=ctx.monotonic(),
    )
    ctx.heads.written(new.key, written, seen=seen)
    return Snapshot(
        id=new_id,
        user_id=project.user_id,
        project_id=project.id,
        path=to_text(state.path),
        seq=stamp.seq,
        kind=new.kind,
        sha256=state.sha256,
        size=state.size,
        mode=mode,
        link=state.link,
        folder_modes=_odd_modes(state.folder_modes),
        context=new.context,
        attribution=attribution,
        created_at=stamp.created_at,
    )


def _odd_modes(modes: tuple[int, ...]) -> list[int] | None:
    """Return the modes of folders to store; None, which takes no space, when all modes are usual."""
    return list(modes) if any(mode != _USUAL_MODE for mode in modes) else None


def _encode(new: _New, head: Head | None, *, known: Head | None = None) -> Plan[Blob]:
    """Encode the content, as a delta from the stored content of `head` if there is one."""
    state = new.state
    if state.content is None:
        return Blob.absent(state.sha256, state.size)
    if head is None or head.blob is None:
        return encode(state.content, sha256=state.sha256)
    base = head.content
    if base is None:
        try:
            base = yield from blob_content(new.project.user_id, head.blob.sha256, path=state.path, known=known)
        except IntegrityFailure:
            # The old version is damaged, so the new one must not depend on it. `verify` reports it.
            return encode(state.content, sha256=state.sha256)
    return encode(state.content, sha256=state.sha256, base=head.blob, base_content=base)


def append_deletion(project: Project, path: str, *, kind: str, reason: str | None = None) -> Plan[Snapshot | None]:
    """Append a deletion; return None when the file is deleted already. Raises NotFound for a file without versions."""
    ctx = yield from context()
    ctx.require_tenant(project.user_id)
    attribution = ctx.attribution if reason is None else evolve(ctx.attribution, reason=reason)
    while True:
        head = ctx.heads.get((project.user_id, project.id, path))
        if head is None or head.sha256 is None:
            # Do not trust a cached deletion: another client may have written the file since.
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
            return Snapshot(
                id=new_id,
                user_id=project.user_id,
                project_id=project.id,
                path=to_text(path),
                seq=stamp.seq,
                kind=kind,
                sha256=None,
                size=0,
                mode=head.mode,
                attribution=attribution,
                created_at=stamp.created_at,
            )
