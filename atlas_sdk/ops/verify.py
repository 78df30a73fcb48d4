"""Verify the stored memory: read back every version and hash it again."""

from collections import OrderedDict
from typing import Any
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import IntegrityFailure
from atlas_sdk.model.blobs import Blob, assemble
from atlas_sdk.model.memory import BrokenVersion, Verification
from atlas_sdk.model.users import User
from atlas_sdk.ops.contents import blob_content

__all__ = ["verify"]

sql = statements("verify")

_PAGE_ROWS = 500
#: Bytes of decoded contents to cache, as bases of the deltas that follow.
_CACHE_BYTES = 64 * 2**20


@frozen(kw_only=True)
class _Row:
    project_id: UUID
    path: str
    seq: int
    id: UUID
    #: The blob's hash, None for a deletion; below: the blob's other columns.
    sha256: bytes | None
    size: int | None
    depth: int | None
    base_sha256: bytes | None
    data: bytes | None


class _Contents:
    """A bounded cache of decoded contents, which drops the oldest first."""

    def __init__(self) -> None:
        self._contents: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, sha256: bytes) -> bytes | None:
        return self._contents.get(sha256)

    def put(self, sha256: bytes, content: bytes) -> None:
        self._contents[sha256] = content
        self._bytes += len(content)
        while self._bytes > _CACHE_BYTES:
            self._bytes -= len(self._contents.popitem(last=False)[1])


def verify(user: User) -> Plan[Verification]:
    """Rebuild every content of a user's memory, recompute its SHA-256, and report the versions that do not match.

    The call reads everything once, file by file in pages. Each delta is applied to a content that the call has just
    rebuilt, so the work grows with the number of versions, not with the length of chains.
    """
    rebuilt = _Contents()
    seen: set[bytes] = set()
    bad: set[bytes] = set()
    broken: list[BrokenVersion] = []
    versions = unkept = content_bytes = stored_bytes = 0
    after: dict[str, Any] = {"project_id": UUID(int=0), "path": "", "seq": 0, "id": UUID(int=0)}
    while True:
        page = yield from many(sql["page"], _Row, user_id=user.id, limit=_PAGE_ROWS, **after)
        for row in page:
            if row.sha256 is None:
                continue
            versions += 1
            unkept += row.data is None
            if row.sha256 not in seen:
                seen.add(row.sha256)
                stored_bytes += len(row.data or b"")
                try:
                    content_bytes += len((yield from _rebuild(user.id, row, rebuilt)))
                except IntegrityFailure:
                    bad.add(row.sha256)
            if row.sha256 in bad:
                sha256 = row.sha256.hex()
                problem = "the bytes do not match"
                broken.append(BrokenVersion(path=row.path, snapshot_id=row.id, sha256=sha256, problem=problem))
        if len(page) < _PAGE_ROWS:
            break
        last = page[-1]
        after = {"project_id": last.project_id, "path": last.path, "seq": last.seq, "id": last.id}
    return Verification(
        versions=versions,
        contents=len(seen),
        unkept=unkept,
        content_bytes=content_bytes,
        stored_bytes=stored_bytes,
        broken=tuple(broken),
    )


def _rebuild(user_id: UUID, row: _Row, rebuilt: _Contents) -> Plan[bytes]:
    if row.data is None or row.sha256 is None or row.size is None or row.depth is None:
        return b""
    blob = Blob(sha256=row.sha256, size=row.size, depth=row.depth, base_sha256=row.base_sha256, data=row.data)
    base = None if row.base_sha256 is None else rebuilt.get(row.base_sha256)
    if row.base_sha256 is None:
        content = assemble([blob], path=row.path)
    elif base is None:
        content = yield from blob_content(user_id, row.sha256, path=row.path)
    else:
        content = assemble([blob, Blob.raw(base)], path=row.path)
    rebuilt.put(row.sha256, content)
    return content
