"""Prepare the rows of a batch: the new versions of each file, encoded one after the other. Nothing here does I/O."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from uuid import UUID

from attrs import define, evolve, field, frozen

from atlas_sdk._context import Context
from atlas_sdk._heads import Key
from atlas_sdk._plan import Array
from atlas_sdk.errors import AtlasError
from atlas_sdk.files import to_text
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.blobs import Blob, encode
from atlas_sdk.model.memory import Head, Snapshot
from atlas_sdk.ops.new_version import NewVersion, no_file, odd_modes

__all__ = ["Chain", "parameters"]


#: Stands for the time of a version that is not stored yet.
_UNKNOWN_TIME = datetime.max.replace(tzinfo=UTC)


@frozen(kw_only=True)
class _Step:
    """A version to append, after `before`."""

    place: int
    new: NewVersion
    id: UUID
    before: Head | None
    #: The version as the newest one, except for what only the database knows: number and time.
    head: Head


@define(kw_only=True)
class Chain:
    """The new versions of one file in a batch, in order."""

    key: Key
    #: The versions, each with its place in the list of the caller.
    news: list[tuple[int, NewVersion]] = field(factory=list)
    #: The newest version now, and the file's shared stamp before it was read; None for a file without versions.
    head: Head | None = None
    seen: bytes | None = None
    #: What `prepare` makes of them: the versions to append, their contents, the ids of versions that are equal to the
    #: one before, and the errors of versions that cannot be appended.
    steps: list[_Step] = field(factory=list)
    blobs: dict[bytes, Blob] = field(factory=dict)
    equal: list[UUID] = field(factory=list)
    refused: list[tuple[int, AtlasError]] = field(factory=list)

    @cached_property
    def path(self) -> str:
        """The path as PostgreSQL has it."""
        return to_text(self.key[2])

    @property
    def base(self) -> Blob | None:
        """The stored content that the first delta needs and that is not known."""
        head = self.head
        if head is None or head.content is not None or all(new.content is None for _, new in self.news):
            return None
        return head.blob

    @property
    def last_id(self) -> UUID | None:
        """The newest version of the file after the batch."""
        if self.steps:
            return self.steps[-1].id
        return None if self.head is None else self.head.snapshot_id

    @property
    def inner(self) -> list[bytes]:
        """The hashes of the contents that are followed by another version: each may become the base of a delta."""
        return [new.sha256 for _, new in self.news[:-1] if new.sha256 is not None]

    def prepare(self, ctx: Context, bases: Mapping[bytes, bytes], depths: Mapping[bytes, int]) -> None:
        """Encode the versions, each as a delta from the one before.

        `bases` are stored contents by hash, and `depths` the places of stored contents in their chains of deltas.
        """
        head = self.head
        for place, new in self.news:
            if head is not None and new.repeats(head):
                if new.snapshot_id is not None:
                    self.equal.append(new.snapshot_id)
            elif new.sha256 is None and head is None:
                self.refused.append((place, no_file(new)))
            else:
                step = self._step(ctx, place, new, head, bases, depths)
                self.steps.append(step)
                head = step.head

    def _step(
        self,
        ctx: Context,
        place: int,
        new: NewVersion,
        head: Head | None,
        bases: Mapping[bytes, bytes],
        depths: Mapping[bytes, int],
    ) -> _Step:
        blob = None if head is None else head.blob
        content = None if head is None else head.content
        if new.sha256 is not None:
            if content is None and blob is not None:
                content = bases.get(blob.sha256)
            # Without its content, the old version is damaged, so the new one must not depend on it.
            made = self._blob(new, new.sha256, None if content is None else blob, content)
            depth = depths.get(new.sha256)
            made = made if depth is None or made.data is None else evolve(made, depth=depth)
            blob, content = (None, None) if made.data is None else (made, new.content)
        new_id = new.snapshot_id or ctx.new_id()
        after = Head(
            snapshot_id=new_id,
            seq=0,
            sha256=new.sha256,
            mode=new.mode_after(head),
            link=new.link,
            created_at=_UNKNOWN_TIME,
            blob=blob,
            content=content,
        )
        return _Step(place=place, new=new, id=new_id, before=head, head=after)

    def _blob(self, new: NewVersion, sha256: bytes, base: Blob | None, base_content: bytes | None) -> Blob:
        """Return the blob of a content; the same content twice in a chain is one blob."""
        found = self.blobs.get(sha256)
        if found is None or (found.data is None and new.content is not None):
            if new.content is None:
                found = Blob.absent(sha256, new.size)
            else:
                found = encode(new.content, sha256=sha256, base=base, base_content=base_content)
            self.blobs[sha256] = found
        return found

    def stored(
        self, ctx: Context, seq: int, stored_at: datetime, depths: Mapping[bytes, int]
    ) -> list[tuple[int, Snapshot]]:
        """Keep the newest version, now that the batch is stored; return the stored versions with their places.

        `seq` is the number of the newest version, and `depths` are the places of contents that were stored before.
        """
        not_before = None if self.head is None else self.head.created_at
        first = seq - len(self.steps) + 1
        created_at = stored_at
        made: list[tuple[int, Snapshot]] = []
        for number, step in enumerate(self.steps, start=first):
            created_at = min(step.new.captured_at or stored_at, stored_at)
            not_before = created_at if not_before is None else max(created_at, not_before)
            created_at = not_before
            version = step.new.stored(ctx, step.id, step.before, seq=number, created_at=created_at)
            made.append((step.place, version))
        if not self.steps:
            return made
        head = self.steps[-1].head
        if head.sha256 is None:
            ctx.heads.deleted(self.key)
            return made
        blob = head.blob
        if blob is not None and (depth := depths.get(blob.sha256, blob.depth)) != blob.depth:
            blob = evolve(blob, depth=depth)
        head = evolve(head, seq=seq, created_at=created_at, blob=blob, confirmed_at=ctx.monotonic())
        ctx.heads.written(self.key, head, seen=self.seen)
        return made


def parameters(ctx: Context, chains: Sequence[Chain]) -> dict[str, object]:
    """Return the arrays of the statement `put_many`."""
    steps = [(chain, number, step) for chain in chains for number, step in enumerate(chain.steps)]
    news = [step.new for _, _, step in steps]
    blobs = [(chain.last_id, blob) for chain in chains for blob in chain.blobs.values()]
    authors: dict[Attribution, int] = {}
    numbers = [authors.setdefault(new.author(ctx), len(authors) + 1) for new in news]
    return {
        "user_id": chains[0].key[0],
        "chosen_ids": any(new.snapshot_id is not None for new in news),
        "attributions": Array("text", [_json(author.to_json()) for author in authors]),
        "f_project": Array("uuid", [chain.key[1] for chain in chains]),
        "f_path": Array("text", [chain.path for chain in chains]),
        "f_head": Array("uuid", [None if chain.head is None else chain.head.snapshot_id for chain in chains]),
        "f_last": Array("uuid", [chain.last_id for chain in chains]),
        "f_content": Array("uuid", [_last_content(chain) for chain in chains]),
        "f_count": Array("int4", [len(chain.steps) for chain in chains]),
        "f_equal": Array("text", [_literal(chain.equal) for chain in chains]),
        "b_last": Array("uuid", [last_id for last_id, _ in blobs]),
        "b_sha256": Array("bytea", [blob.sha256 for _, blob in blobs]),
        "b_size": Array("int8", [blob.size for _, blob in blobs]),
        "b_depth": Array("int4", [blob.depth for _, blob in blobs]),
        "b_base_sha256": Array("bytea", [blob.base_sha256 for _, blob in blobs]),
        "b_data": Array("bytea", [blob.data for _, blob in blobs]),
        "v_last": Array("uuid", [chain.last_id for chain, _, _ in steps]),
        "v_back": Array("int4", [len(chain.steps) - 1 - number for chain, number, _ in steps]),
        "v_project": Array("uuid", [new.project_id for new in news]),
        "v_path": Array("text", [chain.path for chain, _, _ in steps]),
        "v_id": Array("uuid", [step.id for _, _, step in steps]),
        "v_size": Array("int8", [new.size for new in news]),
        "v_mode": Array("int4", [step.head.mode for _, _, step in steps]),
        "v_kind": Array("text", [new.kind for new in news]),
        "v_sha256": Array("bytea", [new.sha256 for new in news]),
        "v_link": Array("text", [new.link for new in news]),
        "v_folder_modes": Array("text", [_literal(odd_modes(new.folder_modes)) for new in news]),
        "v_context": Array("text", [None if new.context is None else _json(new.context) for new in news]),
        "v_attribution": Array("int4", numbers),
        "v_captured_at": Array("timestamptz", _captures(chains)),
        "v_not_before": Array(
            "timestamptz", [None if chain.head is None else chain.head.created_at for chain, _, _ in steps]
        ),
    }


def _json(value: Mapping[str, object]) -> str:
    text = json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()


def _literal(values: Sequence[object] | None) -> str | None:
    """Return an array as text, or None for an empty one: an array of arrays needs equal lengths."""
    return f"{{{','.join(map(str, values))}}}" if values else None


def _last_content(chain: Chain) -> UUID | None:
    return next((step.id for step in reversed(chain.steps) if step.new.sha256 is not None), None)


def _captures(chains: Sequence[Chain]) -> list[datetime | None]:
    """Return the times of capture, none before the one of the version before; None means the time of storing."""
    found: list[datetime | None] = []
    for chain in chains:
        latest: datetime | None = datetime.min.replace(tzinfo=UTC)
        for step in chain.steps:
            captured_at = step.new.captured_at
            latest = None if latest is None or captured_at is None else max(latest, captured_at)
            found.append(latest)
    return found
