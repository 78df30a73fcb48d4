"""Log each capture and a summary: a line for people, and the same as fields for programs.

The logger `watcher.captures` gets one record for each version that the journal has taken. The logger `watcher.summary`
gets one at the start and one at the end. The attribute `fields` of such a record is a dictionary with stable keys, for
`atlas_sdk.logs.JsonFormatter`.
"""

import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen

from atlas_sdk import Project
from atlas_sdk.files import printable, to_text
from atlas_sdk.journal import Record
from watcher.folder import Folder
from watcher.status import Status

CAPTURES: Final = logging.getLogger("watcher.captures")
SUMMARY: Final = logging.getLogger("watcher.summary")

#: The files whose last size is remembered. Each takes about 200 bytes.
_REMEMBERED: Final = 10_000
_KINDS: Final = {"claude_md": "instructions", "scratch": "notes"}


@frozen(kw_only=True)
class CaptureNews:
    """A version that was stored, or a deletion."""

    at: datetime
    project: Project
    path: str
    #: "new", "changed" or "deleted".
    change: str
    #: "instructions" or "notes".
    kind: str
    #: The size of the content in bytes; None for a deletion.
    size: int | None
    #: The size before the change; None if the file is new, or if this daemon does not know it.
    size_before: int | None
    version: UUID

    @property
    def difference(self) -> int | None:
        """The change of the size in bytes; None if it is unknown."""
        if self.size is None or self.size_before is None:
            return None
        return self.size - self.size_before

    def line(self) -> str:
        """Return the capture as one line for people."""
        parts = [printable(self.project.name), printable(self.path), self.change]
        if self.size is not None:
            parts.append(f"{self.size:,} B")
        if self.difference is not None:
            parts.append(f"{self.difference:+,} B")
        return "  ".join([*parts, self.kind])

    def fields(self) -> dict[str, Any]:
        """Return the capture for a program. Paths are in the form that `atlas_sdk.files.from_text` reads."""
        return {
            "event": "capture",
            "at": self.at,
            "project": to_text(self.project.name),
            "project_id": str(self.project.id),
            "root": to_text(self.project.path),
            "path": to_text(self.path),
            "change": self.change,
            "kind": self.kind,
            "size": self.size,
            "size_before": self.size_before,
            "version": str(self.version),
        }


@frozen
class CaptureLog:
    """The log of captures. It remembers the last sizes of files, for the differences."""

    _sizes: "OrderedDict[tuple[UUID, str], int]" = field(factory=OrderedDict)

    def tell(self, folder: Folder, record: Record) -> None:
        """Log a record that the journal has taken. Call it before `folder` takes the new entry of the file."""
        known = folder.known.get(record.path)
        key = (folder.id, record.path)
        before = self._sizes.pop(key, None if known is None or known.signature is None else known.signature.size)
        if record.op == "version":
            self._sizes[key] = record.size
            if len(self._sizes) > _REMEMBERED:
                self._sizes.popitem(last=False)
            if known is not None and (known.sha256, known.mode, known.link) == (
                record.sha256,
                record.mode,
                record.link,
            ):
                # The database decides whether this is a version, because only there it may be one.
                return
        if CAPTURES.isEnabledFor(logging.INFO):
            kind = folder.tracking.kind(record.path)
            news = CaptureNews(
                at=record.captured_at,
                project=folder.project,
                path=record.path,
                change="deleted" if record.op == "deletion" else "new" if known is None else "changed",
                kind=_KINDS.get(kind, kind),
                size=None if record.op == "deletion" else record.size,
                size_before=None if known is None else before,
                version=record.id,
            )
            CAPTURES.info("%s", news.line(), extra={"fields": news.fields(), "news": news})


class SummaryLog:
    """The summaries of a daemon: one when it is ready, one at its end."""

    def __init__(self) -> None:
        self._last: Status | None = None

    def report(self, status: Status) -> None:
        """Take the newest status; log a summary if it is the first ready one."""
        if status.ready and not (self._last is not None and self._last.ready):
            log_summary(status)
        self._last = status

    def end(self) -> None:
        """Log the last summary, unless the daemon was never ready."""
        if self._last is not None and self._last.ready:
            log_summary(self._last)


def log_summary(status: Status) -> None:
    """Log a status as one line."""
    SUMMARY.info("%s", summary_of(status), extra={"fields": summary_fields(status)})


def summary_of(status: Status) -> str:
    """Return a status as one line for people."""
    counters = status.counters
    captured = counters.get("snapshots", 0) + counters.get("deletions", 0)
    projects = len(status.projects)
    parts = [f"{projects:,} project{'' if projects == 1 else 's'}", f"{captured:,} captured"]
    parts += [f"{status.pending:,} waiting"] if status.pending else []
    parts += [f"{status.journal.records:,} only in the journal"] if status.journal.records else []
    lost = sum(project.lost for project in status.projects)
    parts += [f"{lost:,} lost"] if lost else []
    parts += [f"{counters['overflows']:,} overflows"] if counters.get("overflows") else []
    parts.append("database ok" if status.database.ok else f"database: {status.database.problem or 'not reached yet'}")
    return "; ".join(parts)


def summary_fields(status: Status) -> dict[str, Any]:
    """Return a status for a program."""
    counters = status.counters
    names = ("events", "captures", "snapshots", "deletions", "overflows", "errors")
    return {
        "event": "summary",
        "at": datetime.now(UTC),
        "ready": status.ready,
        "projects": len(status.projects),
        "lost": sum(project.lost for project in status.projects),
        "pending": status.pending,
        **{name: counters.get(name, 0) for name in names},
        "journal_records": status.journal.records,
        "journal_bytes": status.journal.bytes,
        "database_ok": status.database.ok,
        "problem": status.database.problem,
    }
