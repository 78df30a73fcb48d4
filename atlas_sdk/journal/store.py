"""The journal of a home."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from attrs import evolve

from atlas_sdk.errors import JournalProblem
from atlas_sdk.journal.cap import make_room
from atlas_sdk.journal.connection import Connection, execute
from atlas_sdk.journal.order import deliverable
from atlas_sdk.journal.records import (
    JournalStatus,
    KnownHead,
    PendingFile,
    Record,
    fields_of,
    from_microseconds,
    head_of,
    project_of,
    record_of,
    row_of,
    row_of_head,
    to_microseconds,
)
from atlas_sdk.model.projects import Project

__all__ = ["LIMIT_BYTES", "Journal"]

#: The default limit of a journal's file.
LIMIT_BYTES = 2 * 2**30
#: Bytes beside the contents that an append may need.
_RECORD_BYTES, _HEAD_BYTES = 1_024, 256
#: Attempts to append while the file of the journal is replaced each time.
_ATTEMPTS = 5
#: Give this many unused pages back to the disk after a delivery (16 MiB): enough to shrink after an outage.
_SHRINK_PAGES = 4_096


def _now() -> datetime:
    return datetime.now(UTC)


class Journal:
    """The journal of a home: what was captured and is not in the database yet. Threads may share it.

    Any number of processes may append to one journal at the same time. A forked child may go on using it.
    """

    def __init__(self, home: Path, *, limit_bytes: int, makes: bool) -> None:
        """Use `Journal.open` or `Journal.existing` instead of this constructor."""
        self.home = home
        self._limit_bytes = limit_bytes
        # Two connections, so that no append waits for a long read.
        self._appends = Connection(home, durable=True, makes=makes)
        self._reads = Connection(home, durable=False, makes=makes)
        #: The ids of records that are delivered, but could not be removed.
        self._unmarked: set[bytes] = set()

    @classmethod
    def open(cls, home: Path, *, limit_bytes: int = LIMIT_BYTES) -> Self:
        """Open the journal of a home; make the home and the journal if they are missing. Raises JournalProblem."""
        found = cls(home, limit_bytes=limit_bytes, makes=True)
        found._reads.opened()
        return found

    @classmethod
    def existing(cls, home: Path, *, limit_bytes: int = LIMIT_BYTES) -> Self | None:
        """Open the journal of a home; return None if there is none. Make nothing. Raises JournalProblem."""
        found = cls(home, limit_bytes=limit_bytes, makes=False)
        return None if found._reads.opened() is None else found

    @property
    def path(self) -> Path:
        """The file."""
        return self._appends.path

    def append(self, records: Sequence[Record], heads: Mapping[UUID, Sequence[KnownHead]] | None = None) -> None:
        """Append records in one transaction, and note the heads of their projects; durable when it returns.

        A record whose id is in the journal already is left out. Raises JournalProblem if the disk or the limit forbids
        it: then nothing is stored.
        """
        rows = [row_of(record) for record in records]
        known = [row_of_head(project, head) for project, of_project in (heads or {}).items() for head in of_project]
        needed = sum(len(record.content or b"") + _RECORD_BYTES for record in records) + len(known) * _HEAD_BYTES
        # Without a record nothing needs to reach the disk: a lost head costs one more look at a file.
        connection = self._appends if records else self._reads
        for _ in range(_ATTEMPTS):
            with connection.transaction() as transaction:
                if transaction is None:
                    raise JournalProblem(f"there is no journal {self.path}", path=str(self.path))
                if records:
                    make_room(transaction, needed, limit_bytes=self._limit_bytes, now=_now(), path=str(self.path))
                    execute(transaction, "append", rows)
                execute(transaction, "know", known)
            # If the file was removed or replaced meanwhile, the records are in a file that nobody reads: append again.
            if connection.is_open:
                return
        raise JournalProblem(f"the journal {self.path} is replaced again and again", path=str(self.path))

    def pending(
        self,
        project: UUID | None = None,
        path: str | None = None,
        limit: int = 500,
        max_bytes: int = 16 * 2**20,
        *,
        held_too: bool = False,
        user: UUID | None = None,
        skipped: Collection[UUID] = (),
    ) -> list[Record]:
        """Return the first records to deliver, in the order of their append; at least one if there is one.

        Records that are held back are left out, unless `held_too`, and so are those that must wait for them: later
        records of the same file, a checkpoint after them, and everything after that checkpoint. Records of other users
        than `user` are left out too, and those whose ids are `skipped`.
        """
        now = None if held_too else to_microseconds(_now())
        name = "keys" if project is None else "keys_of_project"
        given = {} if project is None else {"project_id": project.bytes}
        # An open cursor would keep SQLite from starting its log anew.
        with self._reads.lock, closing(self._reads.each(name, **given)) as found:
            keys = (key for key in found if user is None or key["user_id"] == user.bytes)
            ids = self._unmarked | {one.bytes for one in skipped}
            seqs = list(deliverable(keys, now=now, path=path, limit=limit, max_bytes=max_bytes, skipped=ids))
            return [record_of(row) for seq in seqs for row in self._reads.rows("record", seq=seq)]

    def delivered(self, ids: Iterable[UUID]) -> None:
        """Remove records that are in the database. Not durable at once: a lost mark means one more delivery."""
        gone = self._unmarked | {one.bytes for one in ids}
        try:
            with self._reads.transaction() as transaction:
                if transaction is None:
                    return
                execute(transaction, "delivered", [{"id": one} for one in gone])
        except JournalProblem:
            # On a full disk nothing can be marked. The delivery must go on all the same: it makes room.
            self._unmarked = gone
            raise
        self._unmarked = set()
        self._shrink()

    def _shrink(self) -> None:
        with self._reads.lock, self._reads.explained():
            connection = self._reads.opened()
            if connection is None:
                return
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free > _SHRINK_PAGES:
                connection.execute(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})").fetchall()

    def hold_back(self, record_id: UUID, problem: str, until: datetime | timedelta, *, blocks: bool = True) -> None:
        """Keep a record that the database refuses, with the reason.

        `pending` leaves the record out until this time, or for this long. Later records of its file wait for it, unless
        `blocks` is false: then the database will never take it.
        """
        held_until = to_microseconds(_now() + until if isinstance(until, timedelta) else until)
        row = {"id": record_id.bytes, "problem": problem, "held_until": held_until, "blocks": int(blocks)}
        with self._reads.transaction() as transaction:
            if transaction is not None:
                execute(transaction, "hold_back", [row])

    def is_empty(self, project: UUID | None = None) -> bool:
        """Return whether there is no record, at all or of one project. Costs some microseconds."""
        if project is None:
            return not self._reads.rows("any_record")
        return not self._reads.rows("any_of_project", project_id=project.bytes)

    def files(self, project: UUID) -> list[PendingFile]:
        """Return the files of a project with records, in the order of their paths."""
        return [
            PendingFile(
                path=os.fsdecode(row["path"]),
                records=row["records"],
                bytes=row["bytes"],
                oldest_at=from_microseconds(row["oldest_at"]),
                newest_at=from_microseconds(row["newest_at"]),
                sha256=next((found["sha256"] for found in self._reads.rows("sha256", seq=row["newest"])), None),
                problem=row["problem"],
            )
            for row in self._reads.rows("files", project_id=project.bytes)
        ]

    def checkpoints(self, project: UUID) -> list[str]:
        """Return the names of the checkpoints of a project that are not in the database yet, the oldest first."""
        return [row["name"] for row in self._reads.rows("checkpoints", project_id=project.bytes)]

    def remember_projects(self, projects: Iterable[Project], *, complete: bool = False) -> None:
        """Remember projects, so that captures go on while the database is away.

        `complete` says that these are all projects: others are forgotten, but not their records.
        """
        rows = [{"id": project.id.bytes, "fields": fields_of(project)} for project in projects]
        with self._reads.transaction() as transaction:
            if transaction is None:
                return
            if complete:
                execute(transaction, "forget_projects", [{}])
            execute(transaction, "remember_project", rows)

    def projects(self) -> list[Project]:
        """Return the remembered projects, also those that are not active: check their `status`."""
        return [project_of(row["fields"]) for row in self._reads.rows("projects")]

    def heads(self, project: UUID | None = None) -> dict[UUID, list[KnownHead]]:
        """Return the newest known version of each file, by project; the files in the order of their paths."""
        found: dict[UUID, list[KnownHead]] = {}
        for row in self._reads.rows("heads", project_id=None if project is None else project.bytes):
            found.setdefault(UUID(bytes=row["project_id"]), []).append(head_of(row))
        return found

    def forget_heads(self, project: UUID, paths: Iterable[str] | None = None) -> None:
        """Forget the heads of a project, or of some of its files."""
        with self._reads.transaction() as transaction:
            if transaction is None:
                return
            if paths is None:
                execute(transaction, "forget_heads", [{"project_id": project.bytes}])
            else:
                rows = [{"project_id": project.bytes, "path": os.fsencode(path)} for path in paths]
                execute(transaction, "forget_head", rows)

    def forget_project(self, project: UUID) -> int:
        """Forget a project with its heads and its records; return the number of records, which are lost for good."""
        with self._appends.transaction() as transaction:
            if transaction is None:
                return 0
            before = transaction.total_changes
            execute(transaction, "forget_records", [{"project_id": project.bytes}])
            lost = transaction.total_changes - before
            execute(transaction, "forget_heads", [{"project_id": project.bytes}])
            execute(transaction, "forget_project", [{"project_id": project.bytes}])
            return lost

    def status(self) -> JournalStatus:
        """Return the size and the state of the journal. A journal that cannot be used is a status too."""
        try:
            return self._status()
        except JournalProblem as problem:
            return JournalStatus(problem=str(problem))

    def _status(self) -> JournalStatus:
        totals, held, dropped = (self._only(name) for name in ("totals", "held", "dropped"))
        if not totals:
            return JournalStatus()
        oldest = self._only("oldest").get("captured_at")
        found = JournalStatus(
            **totals,
            **held,
            oldest_at=None if oldest is None else from_microseconds(oldest),
            dropped=dropped["versions"],
        )
        at = dropped["at"]
        return found if at is None else evolve(found, dropped_at=from_microseconds(at))

    def _only(self, name: str) -> dict[str, Any]:
        return next((dict(row) for row in self._reads.rows(name)), {})

    def close(self) -> None:
        """Close the file. Idempotent; the next use opens it again."""
        self._appends.close()
        self._reads.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
