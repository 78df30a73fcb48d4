"""Append many versions, of many files and projects, in one statement and one commit for each user.

A version that the statement does not store, because another client was faster or a hard limit might refuse it, is
appended once more with the others of its kind, after a new look at the newest versions, and at last alone.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from attrs import define, field, frozen

from atlas_sdk._context import Context
from atlas_sdk._heads import Key
from atlas_sdk._plan import Array, Plan, context, local, many, one
from atlas_sdk._sql import statements
from atlas_sdk.errors import AtlasError, InvalidInput, NotFound, QuotaExceeded
from atlas_sdk.files import to_text
from atlas_sdk.model.memory import Snapshot
from atlas_sdk.ops.append import HEAD_TRUST_S, append_in_turn
from atlas_sdk.ops.chains import Chain, parameters
from atlas_sdk.ops.contents import blob_contents
from atlas_sdk.ops.heads import read_heads
from atlas_sdk.ops.new_version import NewVersion, Refused

__all__ = ["MOST_BYTES", "MOST_VERSIONS", "append_many"]

sql = statements("memory")

#: The most versions and bytes of content in one statement. More versions would not be faster, and would lock their
#: files for longer.
MOST_VERSIONS = 500
MOST_BYTES = 16 * 2**20
#: The most bytes of old contents that are in memory at once for the deltas of one statement.
_MOST_BASE_BYTES = 64 * 2**20
#: The errors of one version that let the others be stored.
_REFUSALS = (QuotaExceeded, NotFound, InvalidInput)


def append_many(news: Sequence[NewVersion], *, in_order: bool = True) -> Plan[list[Snapshot | Refused | None]]:
    """Append versions, the versions of one file in the order of the list; return the results in the same order.

    None means that there was nothing to append: the version is equal to the newest one, or its id is stored already.
    A refused version does not stop the others; but if `in_order`, the later versions of its file are refused too,
    because none of them may come before it. Up to 500 versions of a user, or 16 MiB, are committed together. Raises
    NotPermitted for another tenant's version, before any query.
    """
    ctx = yield from context()
    batch = _Batch(news=news, in_order=in_order, results=[None] * len(news))
    by_user: dict[UUID, list[int]] = {}
    for place, new in enumerate(news):
        ctx.require_tenant(new.user_id)
        by_user.setdefault(new.user_id, []).append(place)
    for places in by_user.values():
        for part in batch.parts(places):
            left = yield from _put_part(batch, part, again=False)
            if len(left) > 1:
                left = yield from _put_part(batch, left, again=True)
            for place in left:
                yield from _append_alone(batch, place)
    return batch.results


@define(kw_only=True)
class _Batch:
    """The versions of a call, with the results so far."""

    news: Sequence[NewVersion]
    in_order: bool
    results: list[Snapshot | Refused | None]
    #: The files with a refused content.
    stopped: dict[Key, AtlasError] = field(factory=dict)

    def refuse(self, place: int, problem: AtlasError) -> None:
        self.results[place] = Refused(problem=problem)
        new = self.news[place]
        # A deletion that has nothing to delete holds nothing up.
        if new.sha256 is not None:
            self.stopped.setdefault(new.key, problem)

    def is_stopped(self, place: int) -> bool:
        """Return whether a version must not be stored because an earlier one of its file was refused."""
        problem = self.stopped.get(self.news[place].key) if self.in_order else None
        if problem is not None:
            self.results[place] = Refused(problem=problem)
        return problem is not None

    def parts(self, places: Sequence[int]) -> Iterator[list[int]]:
        """Yield places by statements, without the versions that are refused before any statement."""
        part: list[int] = []
        size = 0
        for place in places:
            new = self.news[place]
            try:
                new.check()
            except InvalidInput as problem:
                self.refuse(place, problem)
                continue
            added = len(new.content or b"")
            if part and (len(part) >= MOST_VERSIONS or size + added > MOST_BYTES):
                yield part
                part, size = [], 0
            part.append(place)
            size += added
        if part:
            yield part


def _append_alone(batch: _Batch, place: int) -> Plan[None]:
    if batch.is_stopped(place):
        return
    try:
        batch.results[place] = yield from append_in_turn(batch.news[place])
    except _REFUSALS as problem:
        batch.refuse(place, problem)


@frozen(kw_only=True)
class _Done:
    """The result of `memory_put_many`, with None instead of an empty array."""

    done: list[UUID] | None
    seqs: list[int] | None
    stored_at: datetime
    known_sha256: list[bytes] | None
    known_depth: list[int] | None


def _put_part(batch: _Batch, places: Sequence[int], *, again: bool) -> Plan[list[int]]:
    """Append versions of one user in one statement; return the places of those that were not stored.

    If `again`, no head in the cache counts, and versions whose ids are stored already are left out.
    """
    ctx = yield from context()
    places = [place for place in places if not batch.is_stopped(place)]
    if again:
        places = yield from _without_known(batch, places)
    if not places:
        return []
    user_id = batch.news[places[0]].user_id
    chains, left = yield from _chains(ctx, batch, places, again=again)
    bases = yield from blob_contents(user_id, list({chain.base.sha256 for chain in chains if chain.base is not None}))
    inner = list({sha256 for chain in chains for sha256 in chain.inner})
    depths: dict[bytes, int] = {}
    if inner:
        depths = {
            row.sha256: row.depth
            for row in (yield from many(sql["depths"], _Depth, user_id=user_id, hashes=Array("bytea", inner)))
        }
    yield from local(_prepare, ctx, chains, bases, depths)
    for chain in chains:
        for place, problem in chain.refused:
            batch.refuse(place, problem)
    sent = [chain for chain in chains if chain.steps or chain.equal]
    if not sent:
        return left
    made = yield from one(sql["put_many"], _Done, **parameters(ctx, sent))
    seqs = dict(zip(made.done or (), made.seqs or (), strict=True))
    known = dict(zip(made.known_sha256 or (), made.known_depth or (), strict=True))
    for chain in sent:
        seq = None if chain.last_id is None else seqs.get(chain.last_id)
        if seq is None:
            ctx.heads.drop(chain.key)
            refused = {place for place, _ in chain.refused}
            left += [place for place, _ in chain.news if place not in refused]
            continue
        for place, version in chain.stored(ctx, seq, made.stored_at, known):
            batch.results[place] = version
    return sorted(left)


@frozen(kw_only=True)
class _Depth:
    sha256: bytes
    depth: int


@frozen(kw_only=True)
class _Id:
    id: UUID


def _without_known(batch: _Batch, places: Sequence[int]) -> Plan[list[int]]:
    """Return the places of the versions whose ids the database does not know."""
    chosen = [place for place in places if batch.news[place].snapshot_id is not None]
    if not chosen:
        return list(places)
    news = [batch.news[place] for place in chosen]
    rows = yield from many(
        sql["known_ids"],
        _Id,
        user_id=news[0].user_id,
        projects=Array("uuid", [new.project_id for new in news]),
        paths=Array("text", [to_text(new.path) for new in news]),
        ids=Array("uuid", [new.snapshot_id for new in news]),
    )
    known = {row.id for row in rows}
    return [place for place in places if batch.news[place].snapshot_id not in known]


def _chains(ctx: Context, batch: _Batch, places: Sequence[int], *, again: bool) -> Plan[tuple[list[Chain], list[int]]]:
    """Return the versions by file, with the newest versions, and the places for which there is no room in memory."""
    by_file: dict[Key, Chain] = {}
    for place in places:
        new = batch.news[place]
        chain = by_file.get(new.key)
        if chain is None:
            chain = by_file[new.key] = Chain(key=new.key, head=ctx.heads.get(new.key), seen=ctx.heads.stamp(new.key))
        chain.news.append((place, new))
    unsure = {key: chain.head for key, chain in by_file.items() if again or not _is_sure(ctx, chain)}
    found = yield from read_heads(unsure)
    for key in unsure:
        by_file[key].head = found.get(key)
    room = _MOST_BASE_BYTES
    taken: list[Chain] = []
    left: list[int] = []
    for chain in by_file.values():
        size = 0 if chain.base is None else chain.base.size
        if taken and size > room:
            left += [place for place, _ in chain.news]
            continue
        room -= size
        taken.append(chain)
    return taken, left


def _is_sure(ctx: Context, chain: Chain) -> bool:
    """Return whether the head in the cache will do.

    The compare-and-set proves a head that a version follows. A head that is equal to the first version needs a proof.
    """
    head = chain.head
    if head is None:
        return False
    if not chain.news[0][1].repeats(head):
        return True
    return ctx.monotonic() - head.confirmed_at < HEAD_TRUST_S and ctx.heads.is_newest(chain.key, head)


def _prepare(ctx: Context, chains: Sequence[Chain], bases: dict[bytes, bytes], depths: dict[bytes, int]) -> None:
    for chain in chains:
        chain.prepare(ctx, bases, depths)
