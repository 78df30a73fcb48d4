"""Delete old automatic versions of memory files, and then the contents that no version needs any more."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, execute, many, one, scalar
from atlas_sdk._sql import statements
from atlas_sdk.model.maintenance import JobReport
from atlas_sdk.ops.batches import BATCH, LONG_AGO, BatchStep, Cursor, JobOptions, Progress, cutoff, in_batches

__all__ = ["KEEP_AUTO", "collect_contents", "prune_snapshots"]

sql = statements("retention")

KEEP_AUTO: Final = timedelta(days=30)
_NOBODY: Final = UUID(int=0)
#: The most pauses of 50 ms in which a run waits for open transactions. Nearly all transactions end within milliseconds.
#: Contents that a longer transaction may need are left to the next run.
_PAUSES: Final = 40


@frozen(kw_only=True)
class _Versions:
    examined: int
    removed: int
    skipped: int = 0
    #: The time of the page's last version; None if the page is empty.
    at: datetime | None
    id: UUID | None


def prune_snapshots(
    *, keep: timedelta = KEEP_AUTO, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None
) -> Plan[JobReport]:
    """Delete the versions of kind "auto" that are older than `keep`, of all users. Raises InvalidInput.

    Some versions stay at any age: the newest version of every file, the file's newest version with content, versions
    that a checkpoint names, and versions of other kinds. `collect_contents` deletes the contents of deleted versions.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    before = yield from cutoff("keep", keep)
    statement = sql["old_versions"] if dry_run else sql["prune_versions"]

    def step(after: Cursor) -> Plan[BatchStep]:
        page = yield from one(statement, _Versions, before=before, limit=options.batch, **after)
        return BatchStep(
            examined=page.examined,
            removed=page.removed,
            skipped=page.skipped,
            after={"at": page.at, "id": page.id} if page.examined == options.batch else None,
        )

    return (yield from in_batches("snapshots", step, {"at": LONG_AGO, "id": _NOBODY}, options))


@frozen(kw_only=True)
class _Orphans:
    examined: int
    users: list[UUID]
    sha256s: list[bytes]
    size: int
    user_id: UUID | None
    sha256: bytes | None
    #: The first transaction number that was still unused when the server read the page. `_settled` waits until all
    #: transactions with a lower number have ended.
    seen: str


@frozen(kw_only=True)
class _Collected:
    owner: UUID
    base: bytes | None
    size: int


class _Collector:
    """One run over all contents, page by page.

    After a content is deleted, nothing may need its base any more, so the run examines the base too.
    """

    def __init__(self, options: JobOptions) -> None:
        self._options = options
        self._next: set[tuple[UUID, bytes]] = set()
        #: True after a transaction that did not end in time. From then on the run waits for no transaction.
        self._impatient = False

    def step(self, after: Cursor) -> Plan[BatchStep]:
        """Delete the contents that nothing needs, from the next page and from the bases of contents deleted before.

        After the last page, only such bases are left to examine.
        """
        more = [self._next.pop() for _ in range(min(self._options.batch, len(self._next)))]
        page = yield from one(
            sql["orphans"],
            _Orphans,
            more_users=[user_id for user_id, _ in more],
            more_sha256s=[sha256 for _, sha256 in more],
            **after,
        )
        made = BatchStep(examined=page.examined, removed=0, freed_bytes=0, after=None)
        if self._options.dry_run:
            made = BatchStep(examined=page.examined, removed=len(page.users), freed_bytes=page.size, after=None)
        elif page.users:
            made = yield from self._collect(page)
        over = page.examined < self._options.batch
        rest: Cursor = {**after, "limit": 0} if over else {**after, "user_id": page.user_id, "sha256": page.sha256}
        return BatchStep(
            examined=made.examined,
            removed=made.removed,
            skipped=made.skipped,
            freed_bytes=made.freed_bytes,
            after=rest if self._next or not over else None,
        )

    def _collect(self, page: _Orphans) -> Plan[BatchStep]:
        if not (yield from self._settled(page.seen)):
            return BatchStep(examined=page.examined, removed=0, skipped=len(page.users), freed_bytes=0, after=None)
        gone: Sequence[_Collected] = yield from many(sql["collect"], _Collected, users=page.users, sha256s=page.sha256s)
        self._next.update((one.owner, one.base) for one in gone if one.base is not None)
        return BatchStep(
            examined=page.examined,
            removed=len(gone),
            skipped=len(page.users) - len(gone),
            freed_bytes=sum(one.size for one in gone),
            after=None,
        )

    def _settled(self, seen: str) -> Plan[bool]:
        for _ in range(1 if self._impatient else _PAUSES):
            if (yield from scalar(sql["settled"], bool, seen=seen)):
                return True
            if not self._impatient:
                yield from execute(sql["pause"])
        self._impatient = True
        return False


def collect_contents(*, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None) -> Plan[JobReport]:
    """Delete the contents that no version has and no other content needs as a base, for all users.

    Contents that are being stored at the same time are safe. A content that an open transaction may still need is left
    to the next run if that transaction lasts for more than about two seconds. `dry_run` counts the contents that
    nothing needs now; it does not count their bases, which a real run also deletes.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    first = {"user_id": _NOBODY, "sha256": b"", "limit": options.batch}
    return (yield from in_batches("contents", _Collector(options).step, first, options))
