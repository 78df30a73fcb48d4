"""Load: a dump into an empty database, all of it or nothing, and then read everything back."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import psycopg
from attrs import define, field
from psycopg import Cursor

from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.comparing import Definitions, check_copied, check_definitions, check_rows
from atlas_sdk.backups.prepare_target import make_room
from atlas_sdk.backups.reports import Loaded, Progress
from atlas_sdk.backups.session import Session, connected, sql
from atlas_sdk.errors import BackupFailed
from atlas_sdk.model.memory import Broken
from atlas_sdk.model.quota_accounting import QuotaAccounting
from atlas_sdk.model.users import User
from atlas_sdk.ops import quota_accounting, schema, users, verify

__all__ = ["load"]

_COPY = re.compile(rb"^COPY (?:\S+\.)?(\S+) .*FROM stdin;\n$")
_END = b"\\.\n"
#: Rows are sent in pieces of at least this many bytes.
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

    Without `dsn` into the embedded database (of `home`). One transaction: what fails or is interrupted before its end
    leaves nothing. The dump of an older version is migrated; one of a newer version is refused before anything is
    written, and so is one that is not what its seal says. With a seal or without: what the migrations make is in it as
    they make it, or it is refused. A schema without users' rows in it counts as empty, and everything belongs to its
    owner afterwards, else to this login. Raises BackupFailed, which a database with data does too; FileProblem,
    SchemaMismatch, DatabaseUnreachable, StorageFull. What the verification finds is in the result, and stays loaded.
    """
    began = time.monotonic()
    tell = on_progress or _silent
    archive = Archive.open(Path(file).absolute())
    with connected(dsn, home) as session:
        with session.connection.transaction():
            session.unhindered()
            fresh = make_room(session, archive)
            with _explained(session, archive):
                _fill(session, archive, fresh, tell)
                granted = _settle(session, archive, fresh)
            archive.check_same()
            rows = {table.name: table.amount for table in session.tables(archive.schema)}
            version = len(session.run(schema.status()))
        findings = _Findings()
        with session.connection.transaction():
            session.unhindered()
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
    """Tell nobody."""


@contextmanager
def _explained(session: Session, archive: Archive) -> Iterator[None]:
    """Say of what the server refuses that it comes from the dump."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        raise
    except (psycopg.errors.SyntaxError, psycopg.errors.UndefinedObject, psycopg.errors.UndefinedFunction) as exc:
        server = session.connection.info.server_version // 10_000
        raise BackupFailed(
            f"{archive.file} holds what this server, PostgreSQL {server}, does not know "
            f"({exc.diag.message_primary}): load it into a newer one, unless the file is damaged; nothing was written"
        ) from exc
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.NotSupportedError) as exc:
        raise BackupFailed(
            f"{archive.file} holds what cannot be loaded ({exc.diag.message_primary or exc}): it may be damaged; "
            "nothing was written"
        ) from exc


def _fill(session: Session, archive: Archive, fresh: Definitions, tell: Tell) -> None:
    _run(session, archive.text("pre-data"))
    with archive.data() as lines:
        size = _copy(session, lines, archive, fresh, tell)
    tell(Progress(step="index", name="", done=archive.tables, total=archive.tables, size=size))
    _run(session, archive.text("post-data"))
    check_rows(session, archive)
    # The script left settings of its own, which behind a pooler would be the next client's.
    session.connection.execute("RESET ALL")
    session.unhindered()


def _run(session: Session, script: str) -> None:
    session.connection.execute(script)


def _copy(session: Session, lines: Iterator[bytes], archive: Archive, fresh: Definitions, tell: Tell) -> int:
    """Send the rows of all tables; return their bytes."""
    script: list[bytes] = []
    copied: set[str] = set()
    size = done = 0
    for line in lines:
        found = _COPY.match(line)
        if found is None:
            script.append(line)
            continue
        _run(session, archive.decoded(b"".join(script)))
        script.clear()
        name = archive.decoded(found[1]).strip('"')
        with session.connection.cursor() as cursor:
            for sent in _send(cursor, archive.decoded(line), lines):
                size += sent
                tell(Progress(step="load", name=name, done=done, total=archive.tables, size=size))
        done += 1
        copied.add(name)
    _run(session, archive.decoded(b"".join(script)))
    check_copied(session, archive, fresh, copied)
    return size


def _send(cursor: "Cursor[tuple[object, ...]]", command: str, lines: Iterator[bytes]) -> Iterator[int]:
    """Send the rows of one table in large pieces; yield the bytes of each. A file that ends too early raises."""
    with cursor.copy(command) as copy:
        piece: list[bytes] = []
        size = 0
        for line in lines:
            if line == _END:
                copy.write(b"".join(piece))
                break
            piece.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                copy.write(b"".join(piece))
                yield size
                piece.clear()
                size = 0
        else:
            raise BackupFailed("the dump ends in the middle of a table; nothing was written")
    yield size


def _settle(session: Session, archive: Archive, fresh: Definitions) -> bool:
    """Bring the schema to this release's version, give the roles their rights, and tell the planner what there is.

    The rights come last, when everything is known to be what it should be.
    """
    # A migration may alter a table that still has checks to come.
    session.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    session.run(schema.migrate())
    session.run(schema.check())
    check_definitions(session, archive, fresh)
    granted = bool(session.value(sql["may_grant"])) and bool(session.value(sql["grant"]))
    tables = [table.name for table in session.tables(archive.schema)]
    session.command(sql["write_analyze"], schema=archive.schema, tables=tables)
    return granted


@define
class _Findings:
    """The result of reading everything back."""

    users: int = 0
    versions: int = 0
    broken: list[Broken] = field(factory=list)
    unbalanced: list[QuotaAccounting] = field(factory=list)

    def look(self, session: Session, tell: Tell, *, total: int) -> None:
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
