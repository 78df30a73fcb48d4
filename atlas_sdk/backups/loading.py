"""Load a dump into an empty database, all of it or nothing, and then read everything back."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from attrs import define, field

from atlas_sdk._drive.admin import AdminSession, server_message, statement_fault
from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.comparing import Definitions, check_copied, check_definitions, check_rows
from atlas_sdk.backups.facts import lift_limits, sql, tables_of
from atlas_sdk.backups.prepare_target import make_room
from atlas_sdk.backups.reports import Loaded, Progress
from atlas_sdk.errors import AtlasError, BackupFailed
from atlas_sdk.model.memory import BrokenVersion
from atlas_sdk.model.quota_accounting import QuotaAccounting
from atlas_sdk.model.users import User
from atlas_sdk.ops import quota_accounting, schema, users, verify
from atlas_sdk.provision.session import open_session

__all__ = ["load"]

_COPY = re.compile(rb"^COPY (?:\S+\.)?(\S+) .*FROM stdin;\n$")
_END = b"\\.\n"
#: One message to the server has at least this many bytes of rows, except the last one of a table.
_PIECE_BYTES = 256 * 1024
_USERS = 200

Tell = Callable[[Progress], None]


def load(
    file: str | PathLike[str],
    dsn: str | None = None,
    *,
    home: str | PathLike[str] | None = None,
    on_progress: Tell | None = None,
) -> Loaded:
    """Load a dump into an empty database, then verify the memory and the quota accounting of every user.

    Without `dsn`, load into the embedded database (of `home`). The load is one transaction: a failure or an
    interruption leaves nothing. A dump of an older version is migrated. These dumps are refused before anything is
    written: one of a newer version, one that does not match its seal, and one in which an object of ours differs from
    what the migrations make. A schema without rows of users counts as empty; afterwards its owner owns everything.
    Without such a schema this login does. The fencing numbers of new reservations are higher than all that were given
    before the load. Raises BackupFailed, also for a database with data; FileProblem,
    SchemaMismatch, DatabaseUnreachable, StorageFull. Rows that fail the verification stay loaded; the result names
    them.
    """
    began = time.monotonic()
    tell = on_progress or _silent
    archive = Archive.open(Path(file).absolute())
    with open_session(dsn, home) as session:
        with session.transaction():
            lift_limits(session)
            fresh = make_room(session, archive)
            with _explained(session, archive):
                _fill(session, archive, fresh, tell)
                granted = _settle(session, archive, fresh)
            archive.check_same()
            rows = {table.name: table.amount for table in tables_of(session, archive.schema)}
            version = len(session.run(schema.status()))
        findings = _Findings()
        with session.transaction():
            lift_limits(session)
            findings.look(session, tell, total=rows["users"])
    return Loaded(
        file=archive.file,
        seconds=time.monotonic() - began,
        rows=rows,
        dumped_version=archive.version,
        schema_version=version,
        users=findings.users,
        versions=findings.versions,
        broken=tuple(findings.broken),
        unbalanced=tuple(findings.unbalanced),
        granted=granted,
        sealed=archive.seal is not None,
    )


def _silent(_progress: Progress) -> None:
    """Ignore the progress."""


@contextmanager
def _explained(session: AdminSession, archive: Archive) -> Iterator[None]:
    """Raise BackupFailed, with the name of the dump, for a statement that the server refuses."""
    try:
        yield
    except AtlasError as error:
        fault = statement_fault(error)
        if fault is None:
            raise
        if fault == "unknown":
            what = f"what this server, PostgreSQL {session.server_major}, does not know ({server_message(error)})"
            advice = "load it into a newer one, unless the file is damaged"
        else:
            what, advice = f"what cannot be loaded ({server_message(error)})", "it may be damaged"
        raise BackupFailed(f"{archive.file} holds {what}: {advice}; nothing was written") from error


def _fill(session: AdminSession, archive: Archive, fresh: Definitions, tell: Tell) -> None:
    session.execute(archive.text("pre-data"))
    with archive.data() as lines:
        size = _copy(session, lines, archive, fresh, tell)
    # Do it before the triggers exist: one of them would change `updated_at`.
    if raise_epochs := session.value(sql["write_raise_epochs"], schema=archive.schema):
        session.execute(raise_epochs)
    tell(Progress(step="index", name="", done=archive.tables, total=archive.tables, size=size))
    session.execute(archive.text("post-data"))
    check_rows(session, archive)
    # The script of the dump has changed settings of this session.
    session.reset_settings()
    lift_limits(session)


def _copy(session: AdminSession, lines: Iterator[bytes], archive: Archive, fresh: Definitions, tell: Tell) -> int:
    """Send the rows of all tables; return their size in bytes."""
    script: list[bytes] = []
    copied: set[str] = set()
    size = done = 0
    for line in lines:
        found = _COPY.match(line)
        if found is None:
            script.append(line)
            continue
        session.execute(archive.decoded(b"".join(script)))
        script.clear()
        name = archive.decoded(found[1]).strip('"')
        for sent in _send(session, archive.decoded(line), lines):
            size += sent
            tell(Progress(step="load", name=name, done=done, total=archive.tables, size=size))
        done += 1
        copied.add(name)
    session.execute(archive.decoded(b"".join(script)))
    check_copied(session, archive, fresh, copied)
    return size


def _send(session: AdminSession, command: str, lines: Iterator[bytes]) -> Iterator[int]:
    """Send the rows of a table in large pieces; yield the size of each. Raises BackupFailed if the file ends early."""
    with session.copy_in(command) as write:
        piece: list[bytes] = []
        size = 0
        for line in lines:
            if line == _END:
                write(b"".join(piece))
                break
            piece.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                write(b"".join(piece))
                yield size
                piece.clear()
                size = 0
        else:
            raise BackupFailed("the dump ends in the middle of a table; nothing was written")
    yield size


def _settle(session: AdminSession, archive: Archive, fresh: Definitions) -> bool:
    """Migrate the schema to this release's version, check it, give the roles their rights, and analyze the tables.

    Returns whether the rights were given, which happens after the check.
    """
    # Run the deferred checks now: a migration cannot alter a table that has some.
    session.rows(sql["check_constraints"])
    session.run(schema.migrate())
    session.run(schema.check())
    check_definitions(session, archive, fresh)
    granted = bool(session.value(sql["may_grant"])) and bool(session.value(sql["grant"]))
    tables = [table.name for table in tables_of(session, archive.schema)]
    session.execute(session.value(sql["write_analyze"], schema=archive.schema, tables=tables))
    return granted


@define
class _Findings:
    """The result of the verification after a load."""

    users: int = 0
    versions: int = 0
    broken: list[BrokenVersion] = field(factory=list)
    unbalanced: list[QuotaAccounting] = field(factory=list)

    def look(self, session: AdminSession, tell: Tell, *, total: int) -> None:
        last: User | None = None
        while page := session.run(users.list_all(after=last, limit=_USERS)):
            for user in page:
                tell(Progress(step="verify", name=user.email, done=self.users, total=total, size=0))
                found = session.run(verify.verify(user))
                self.broken.extend(found.broken)
                self.users += 1
                self.versions += found.versions
            last = page[-1]
        self.unbalanced.extend(session.run(quota_accounting.verify()).unbalanced)
