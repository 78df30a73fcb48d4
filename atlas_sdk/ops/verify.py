"""Verification: read back every version and hash it again."""

from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, many, one
from atlas_sdk._sql import statements
from atlas_sdk.errors import IntegrityFailure
from atlas_sdk.model.blobs import Blob, assemble
from atlas_sdk.model.memory import Broken, Verification
from atlas_sdk.model.users import User
from atlas_sdk.ops.append import blob_content

__all__ = ["verify"]

sql = statements("verify")

_PAGE_ROWS = 500
#: Decoded contents kept at hand as bases of the deltas that follow (bytes).
_CACHE_BYTES = 64 * 2**20


@frozen(kw_only=True)
class _Row:
    sha256: bytes
    size: int
    depth: int
    base_sha256: bytes | None
    data: bytes | None
    created_at: datetime

    def blob(self) -> Blob:
        return Blob(sha256=self.sha256, size=self.size, depth=self.depth, base_sha256=self.base_sha256, data=self.data)


@frozen(kw_only=True)
class _Totals:
    versions: int
    unkept: int


@frozen(kw_only=True)
class _Version:
    path: str
    id: UUID
    sha256: bytes


class _Contents:
    """A bounded map of decoded contents."""

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
    """Rebuild every content of a user's memory, recompute its SHA-256, and name the versions that do not match.

    Reads everything once, in pages; deltas are applied to contents rebuilt before, so that the work grows with the
    number of versions, not with the length of chains.
    """
    totals = yield from one(sql["totals"], _Totals, user_id=user.id)
    contents = _Contents()
    broken: dict[bytes, str] = {}
    count = content_bytes = stored_bytes = 0
    after_time, after_sha256 = datetime(1970, 1, 1, tzinfo=UTC), b""
    while True:
        keys: dict[str, Any] = {"after_time": after_time, "after_sha256": after_sha256}
        page = yield from many(sql["blobs"], _Row, user_id=user.id, limit=_PAGE_ROWS, **keys)
        for row in page:
            count += 1
            stored_bytes += len(row.data or b"")
            try:
                content = yield from _rebuild(user.id, row, contents)
            except IntegrityFailure as failure:
                broken[row.sha256] = str(failure)
                continue
            content_bytes += len(content)
            contents.put(row.sha256, content)
        if len(page) < _PAGE_ROWS:
            break
        after_time, after_sha256 = page[-1].created_at, page[-1].sha256
    versions = []
    if broken:
        versions = yield from many(sql["versions_of"], _Version, user_id=user.id, contents=list(broken))
    return Verification(
        versions=totals.versions,
        contents=count,
        unkept=totals.unkept,
        content_bytes=content_bytes,
        stored_bytes=stored_bytes,
        broken=tuple(
            Broken(path=row.path, snapshot_id=row.id, sha256=row.sha256.hex(), problem="the bytes do not match")
            for row in versions
        ),
    )


def _rebuild(user_id: UUID, row: _Row, contents: _Contents) -> Plan[bytes]:
    if row.data is None:
        return b""
    base = None if row.base_sha256 is None else contents.get(row.base_sha256)
    if row.base_sha256 is None:
        return assemble([row.blob()], path="")
    if base is None:
        return (yield from blob_content(user_id, row.sha256, path=""))
    return assemble([row.blob(), Blob.raw(base)], path="")
