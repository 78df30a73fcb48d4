"""Read stored contents back, and repair them."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import Protocol
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Array, Plan, execute, local, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import ContentMissing, IntegrityFailure
from atlas_sdk.files import named
from atlas_sdk.model.blobs import Blob, assemble, encode
from atlas_sdk.model.memory import Head
from atlas_sdk.model.projects import Project

__all__ = ["Content", "blob_content", "blob_contents", "ensure_stored"]

sql = statements("memory")


class Content(Protocol):
    """The content for a new version: a `FileState` read from disk, or an `Incoming`."""

    @property
    def path(self) -> str: ...
    @property
    def content(self) -> bytes | None: ...
    @property
    def sha256(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def link(self) -> str | None: ...
    @property
    def folder_modes(self) -> tuple[int, ...]: ...


def blob_content(user_id: UUID, sha256: bytes, *, path: str, known: Head | None = None) -> Plan[bytes]:
    """Rebuild a stored content and check its SHA-256. Raises ContentMissing, IntegrityFailure.

    If the chain of deltas begins at the content of the head `known`, the call fetches only the deltas.
    """
    end = None if known is None or known.content is None else Blob.raw(known.content)
    known_sha256 = None if end is None else end.sha256
    chain = yield from many(sql["chain"], Blob, user_id=user_id, sha256=sha256, known_sha256=known_sha256)
    if end is not None and chain and chain[-1].base_sha256 == end.sha256:
        chain.append(end)
    if not chain:
        message = f"{path}: version {sha256.hex()[:12]} has no stored content; restore the database from a backup"
        raise IntegrityFailure(message, sha256=sha256.hex())
    return assemble(chain, path=path)


@frozen(kw_only=True)
class _Link:
    """A step of one of many chains."""

    number: int
    sha256: bytes
    size: int
    depth: int
    base_sha256: bytes | None
    data: bytes | None

    def blob(self) -> Blob:
        return Blob(sha256=self.sha256, size=self.size, depth=self.depth, base_sha256=self.base_sha256, data=self.data)


def blob_contents(user_id: UUID, hashes: Sequence[bytes]) -> Plan[dict[bytes, bytes]]:
    """Rebuild many stored contents, by their SHA-256; leave out those that are damaged or missing."""
    if not hashes:
        return {}
    links = yield from many(sql["chains"], _Link, user_id=user_id, hashes=Array("bytea", hashes))
    return (yield from local(_rebuilt, links))


def _rebuilt(links: Sequence[_Link]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for _, steps in groupby(links, key=attrgetter("number")):
        chain = [link.blob() for link in steps]
        with suppress(IntegrityFailure, ContentMissing):
            found[chain[0].sha256] = assemble(chain, path="")
    return found


def ensure_stored(project: Project, state: Content) -> Plan[None]:
    """Ensure that the database can return a content, before a restore overwrites its file.

    If the content cannot be read back, the call stores it again. Raises IntegrityFailure if the new copy cannot be read
    back either.
    """
    if state.content is None:
        raise ContentMissing(f"{named(state.path)} is over the size limit", path=state.path, size=state.size)
    try:
        yield from blob_content(project.user_id, state.sha256, path=state.path)
    except (IntegrityFailure, ContentMissing):
        data = encode(state.content, sha256=state.sha256).data
        yield from execute(sql["heal"], user_id=project.user_id, sha256=state.sha256, data=data)
        yield from blob_content(project.user_id, state.sha256, path=state.path)
