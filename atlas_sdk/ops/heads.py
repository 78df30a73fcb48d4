"""Read the newest versions of files."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._context import Context
from atlas_sdk._heads import Key
from atlas_sdk._plan import Array, Plan, context, many, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.files import to_text
from atlas_sdk.model.blobs import Blob
from atlas_sdk.model.memory import Head

__all__ = ["keys_of", "read_head", "read_heads"]

sql = statements("memory")


def keys_of(key: Key) -> dict[str, object]:
    user_id, project_id, path = key
    return {"user_id": user_id, "project_id": project_id, "path": to_text(path)}


@frozen(kw_only=True)
class _HeadRow:
    seq: int
    snapshot_id: UUID
    sha256: bytes | None
    mode: int
    link: str | None
    created_at: datetime
    blob_sha256: bytes
    blob_size: int
    blob_depth: int
    blob_kept: bool


def read_head(key: Key, *, known: Head | None = None) -> Plan[Head | None]:
    """Read the newest version without its content, because only a delta needs the content.

    If the newest version is still `known`, return `known`, which has the content.
    """
    ctx = yield from context()
    seen = ctx.heads.stamp(key)
    row = yield from one_or_none(sql["head"], _HeadRow, **keys_of(key))
    if row is None:
        return None
    return _remember(ctx, key, row, known=known, seen=seen)


@frozen(kw_only=True)
class _NumberedHeadRow(_HeadRow):
    number: int


def read_heads(known: Mapping[Key, Head | None]) -> Plan[dict[Key, Head]]:
    """Read the newest versions of many files of one user at once, as `read_head` does; files without one are left out.

    The keys of `known` are the files.
    """
    if not known:
        return {}
    ctx = yield from context()
    keys = list(known)
    seen = [ctx.heads.stamp(key) for key in keys]
    rows = yield from many(
        sql["heads"],
        _NumberedHeadRow,
        user_id=keys[0][0],
        projects=Array("uuid", [project_id for _, project_id, _ in keys]),
        paths=Array("text", [to_text(path) for *_, path in keys]),
    )
    found: dict[Key, Head] = {}
    for row in rows:
        key = keys[row.number - 1]
        found[key] = _remember(ctx, key, row, known=known[key], seen=seen[row.number - 1])
    return found


def _remember(ctx: Context, key: Key, row: _HeadRow, *, known: Head | None, seen: bytes | None) -> Head:
    """Return the head that was read, or `known` if that is the newest version still, and keep it."""
    if known is not None and known.snapshot_id == row.snapshot_id:
        head = evolve(known, confirmed_at=ctx.monotonic(), stamp=seen)
    else:
        head = Head(
            snapshot_id=row.snapshot_id,
            seq=row.seq,
            sha256=row.sha256,
            mode=row.mode,
            link=row.link,
            created_at=row.created_at,
            blob=Blob(sha256=row.blob_sha256, size=row.blob_size, depth=row.blob_depth) if row.blob_kept else None,
            confirmed_at=ctx.monotonic(),
            stamp=seen,
        )
    ctx.heads.put(key, head)
    return head
