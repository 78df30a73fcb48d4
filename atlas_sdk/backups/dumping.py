"""Dump a database into one file, as of one moment."""

import os
import re
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING

from atlas_sdk._drive.admin import AdminSession, quoted_name, server_message
from atlas_sdk.backups.atomic_output import Partial
from atlas_sdk.backups.facts import facts_of, lift_limits, sql, tables_of
from atlas_sdk.backups.programs import of_server
from atlas_sdk.backups.reports import Dumped, Progress
from atlas_sdk.backups.seal import Seal
from atlas_sdk.dsn import parsed, with_parts, without_secrets
from atlas_sdk.errors import BackupFailed, FileProblem, InvalidInput, NotPermitted, SchemaMismatch
from atlas_sdk.ops import schema
from atlas_sdk.provision.session import open_session

if TYPE_CHECKING:
    from atlas_sdk.aio import AsyncAtlas
    from atlas_sdk.client import Atlas

__all__ = ["dump"]

#: Seconds between two reports of the size during one long table.
_LOOK_S = 0.5
_TABLE = re.compile(r'dumping contents of table "(?:.+\.)?([^"]+)"')
_TOLD = re.compile(r"^pg_dump: (?:error|warning|detail|hint): (.+)")


def dump(
    file: str | PathLike[str],
    source: "Atlas | AsyncAtlas | str | None" = None,
    *,
    home: str | PathLike[str] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Dumped:
    """Dump a database into a file that only its owner can read: all rows as of one moment, while other clients work.

    `source` is a client, an address, or None for the embedded database, in `home` if given. The schema may be older
    than this release; it is not changed. The file gets its name when it is complete and on the disk; it replaces an
    existing file only with `overwrite`. A seal follows the output of pg_dump: the SHA-256 and the number of rows of
    every table. `load` checks the seal, and pg_restore ignores it. The dump has no owners and no rights, so any login
    may load it. Raises BackupFailed, also for a login that does not see all rows; FileProblem, SchemaMismatch,
    DatabaseUnreachable.
    """
    began = time.monotonic()
    place = Path(file).absolute()
    if place.is_dir():
        raise FileProblem(f"{place} is a folder: give the name of a file in it", path=str(place))
    dsn = source if isinstance(source, str) or source is None else source.url
    with Partial(place, overwrite=overwrite) as partial, open_session(dsn, home) as session:
        with session.transaction(snapshot=True):
            lift_limits(session)
            found = facts_of(session)
            if found.schema is None:
                raise SchemaMismatch(
                    f"the database {found.database} has no AtlasEngine schema, so there is nothing to dump",
                    found=None,
                    wanted=0,
                )
            rows = _counted(session, found.schema)
            program = of_server("pg_dump", (found.major, found.minor), tls=session.is_encrypted)
            _run(
                [program, *_arguments(session, found.schema)],
                partial,
                environment=_environment(session),
                tell=_teller(on_progress, rows),
            )
            version = len(session.run(schema.status()))
        sha256 = partial.publish(Seal(rows=rows).ending)
        size = partial.size()
    return Dumped(
        file=place,
        size=size,
        sha256=sha256,
        seconds=time.monotonic() - began,
        rows=rows,
        schema_version=version,
        server_version=found.server_version,
        program=program,
    )


def _counted(session: AdminSession, name: str) -> dict[str, int]:
    try:
        return {table.name: table.amount for table in tables_of(session, name)}
    except NotPermitted as error:
        raise BackupFailed(
            f"this login does not see all rows ({server_message(error)}), so it cannot make a backup: dump as the "
            "owner of the tables or as a superuser"
        ) from error


def _arguments(session: AdminSession, name: str) -> list[str]:
    snapshot = session.value(sql["snapshot"])
    return [
        "--format=custom",
        "--no-privileges",
        "--no-password",
        "--verbose",
        f"--schema={quoted_name(name)}",
        f"--snapshot={snapshot}",
        f"--dbname={_address(session)}",
    ]


def _address(session: AdminSession) -> str:
    """Return the connection string without secrets, because everybody on the machine can read a command line."""
    given = parsed(session.dsn)
    shown = without_secrets(given)
    if secret := sorted(given.keys() - shown.keys() - {"password", "options"}):
        raise InvalidInput(
            f"pg_dump can be given no {secret[0]} that others cannot read: leave it out of the DSN, or name a service "
            "of pg_service.conf in the DSN that has it",
            field="dsn",
        )
    return with_parts("", **shown)


def _environment(session: AdminSession) -> dict[str, str]:
    """Return the environment of pg_dump, which only this account and root can read."""
    password, options = session.password, parsed(session.dsn).get("options")
    # pg_dump speaks English with this locale, and this module reads its messages.
    words = os.environ | {"LC_ALL": "C", "PGAPPNAME": "atlasengine"}
    return words | ({"PGPASSWORD": password} if password else {}) | ({"PGOPTIONS": options} if options else {})


def _teller(tell: Callable[[Progress], None] | None, rows: dict[str, int]) -> Callable[[str, int, int], None]:
    def told(name: str, done: int, size: int) -> None:
        if tell is not None:
            tell(Progress(step="dump", name=name, done=done, total=len(rows), size=size))

    return told


def _run(
    command: list[str | Path], partial: Partial, *, environment: dict[str, str], tell: Callable[[str, int, int], None]
) -> None:
    """Let pg_dump write into the file, and report the progress."""
    complaints: deque[str] = deque(maxlen=20)
    table, done = "", -1
    with subprocess.Popen(
        # Give pg_dump the name of the file: to a descriptor it would write its table of contents twice. pg_dump
        # inherits the descriptor only to hold the lock.
        [*command, f"--file={partial.path}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        pass_fds=(partial.descriptor,),
    ) as process:
        try:
            for line in _lines(process.stderr):
                if named := _TABLE.search(line):
                    table, done = named[1], done + 1
                elif said := _TOLD.match(line):
                    complaints.append(said[1])
                if table:
                    tell(table, done, partial.size())
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code != 0:
        reason = f"it ended by signal {-code}" if code < 0 else f"it exits with {code}"
        raise BackupFailed(f"pg_dump failed, and nothing was kept: {complaints[0] if complaints else reason}")


def _lines(stream: IO[bytes] | None) -> Iterator[str]:
    """Yield each line when it comes, and an empty line after every `_LOOK_S` seconds without a line."""
    assert stream is not None  # noqa: S101  # `stderr=PIPE` is given above
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(_LOOK_S):
                yield ""
                continue
            chunk = os.read(stream.fileno(), 65_536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
