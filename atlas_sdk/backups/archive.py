"""Read a dump: its contents, and its statements section by section. This needs no server."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import frozen

from atlas_sdk._sql import migrations
from atlas_sdk.backups.programs import newest
from atlas_sdk.backups.seal import Seal
from atlas_sdk.errors import BackupFailed, FileProblem, SchemaMismatch
from atlas_sdk.ops import schema

__all__ = ["Archive"]

_ENTRY = re.compile(r"^\d+; \d+ \d+ (?P<what>.+)$")
#: Matches the entry of our table of versions. Its schema can have any name, and the last word is its owner.
_VERSION_TABLE = re.compile(r"^TABLE (?!DATA )(?P<schema>.+) schema_version \S+$")
_MAGIC = b"PGDMP"
_UNKNOWN_SETTING = b"SET transaction_timeout = 0;\n"
#: Matches the options of a column, which pg_dump writes in one line.
_COLUMN_OPTIONS = re.compile(rb"(ALTER (?:FOREIGN )?TABLE ONLY .+ ALTER COLUMN .+ SET \()(.+)(\);\n)")
#: PostgreSQL reserves names with this prefix.
_INTERNAL = b"pg_"


@frozen(kw_only=True)
class Archive:
    """A dump in pg_dump's custom format."""

    file: Path
    #: The name of the schema.
    schema: str
    #: The number of tables with rows.
    tables: int
    #: The version of the schema: the number of its migrations.
    version: int
    #: None for a file that pg_dump made by itself: nothing proves that it is unchanged.
    seal: Seal | None
    #: The identity of the file when it was opened.
    _found: os.stat_result
    _program: Path
    #: The list of entries to load, for pg_restore.
    _list: str

    @classmethod
    def open(cls, file: Path) -> "Archive":
        """Read the contents of a dump. Raises FileProblem, BackupFailed, and SchemaMismatch when it is too new.

        If the file has a seal, the call first compares the file with its seal.
        """
        seal = None
        try:
            with file.open("rb") as opened:
                found = os.fstat(opened.fileno())
                magic = opened.read(len(_MAGIC))
                if magic == _MAGIC:
                    seal = Seal.read(file, opened)
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise FileProblem(f"{file} cannot be read: {reason}", path=str(file)) from exc
        if magic != _MAGIC:
            raise BackupFailed(f"{file} is no dump in pg_dump's custom format, as `atlasctl db dump` makes them")
        program = newest("pg_restore", at_least=0)
        listed = _read([program, "--list", file])
        # The schema to load into exists; its comment and its owner are not ours to change.
        lines = [line for line in listed.splitlines() if not re.search(r" \d+ (SCHEMA|COMMENT) - (SCHEMA )?\S", line)]
        entries = [entry["what"] for line in lines if (entry := _ENTRY.match(line))]
        schemas = [table["schema"] for what in entries if (table := _VERSION_TABLE.match(what))]
        if len(schemas) != 1:
            raise BackupFailed(f"{file} is a dump of something else: it holds no AtlasEngine schema")
        return cls(
            file=file,
            schema=schemas[0],
            tables=sum(entry.startswith("TABLE DATA ") for entry in entries),
            version=_check_version(file, _read([program, *_DATA, "--table=schema_version", file])),
            seal=seal,
            found=found,
            program=program,
            list="\n".join(lines),
        )

    def text(self, section: str) -> str:
        """Return the statements of the section "pre-data" or "post-data"."""
        with self._opened(section) as stream:
            return self.decoded(b"".join(_plain(stream)))

    def decoded(self, script: bytes) -> str:
        """Return a part of the dump as text. Raises BackupFailed for bytes that are not UTF-8."""
        try:
            return script.decode()
        except UnicodeDecodeError as exc:
            raise _unreadable(self.file, "it holds statements that are not UTF-8") from exc

    def check_same(self) -> None:
        """Refuse a file that was replaced or changed since it was opened: its parts may come from two files."""
        try:
            now = self.file.stat()
        except OSError:
            now = None
        if now is None or not os.path.samestat(now, self._found) or _moment(now) != _moment(self._found):
            raise BackupFailed(
                f"{self.file} was replaced or changed while it was loaded: repeat it; nothing was written"
            )

    @contextmanager
    def data(self) -> Iterator[Iterator[bytes]]:
        """Open the rows of all tables as lines: for each table a COPY statement, rows, and a backslash with a dot."""
        with self._opened("data") as stream:
            yield _plain(stream)

    @contextmanager
    def _opened(self, section: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="atlas-") as chosen:
            chosen.write(self._list)
            chosen.flush()
            how = ("--no-owner", "--no-privileges", "--no-tablespaces", "--exit-on-error", "--file=-")
            command: list[str | Path] = [
                self._program,
                *how,
                f"--section={section}",
                f"--use-list={chosen.name}",
                self.file,
            ]
            with (
                tempfile.TemporaryFile() as words,
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words) as process,
            ):
                assert process.stdout is not None  # noqa: S101  # `stdout=PIPE` is given above
                try:
                    yield process.stdout
                    code = process.wait()
                except BaseException:
                    process.kill()
                    raise
                if code != 0:
                    words.seek(0)
                    raise _unreadable(self.file, words.read().decode(errors="replace"))


_DATA = ("--data-only", "--file=-")


def _plain(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a script without commands for psql and without the parts that some servers do not know.

    These parts are a setting of version 17, and internal options of columns. Since 15.20 a server records `pg_attver`,
    the version of the column, for every column of a new table. An older pg_dump writes this record as an ordinary
    option.
    """
    rows = False
    for line in stream:
        if rows:
            # Do not interpret rows, which may contain any text: a text may even begin with a carriage return.
            rows = line != b"\\.\n"
        elif line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n"):
            rows = True
        elif line.startswith((b"\\restrict ", b"\\unrestrict ")) or line == _UNKNOWN_SETTING:
            continue
        elif _INTERNAL in line and (found := _COLUMN_OPTIONS.fullmatch(line)) is not None:
            before, options, after = found.groups()
            kept = [option for option in options.split(b", ") if not option.startswith(_INTERNAL)]
            if kept:
                yield before + b", ".join(kept) + after
            continue
        yield line


def _moment(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _read(command: list[str | Path]) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=os.environ | {"LC_ALL": "C"}, check=False
    )
    if done.returncode != 0:
        raise _unreadable(Path(command[-1]), done.stderr)
    return done.stdout


def _unreadable(file: Path, words: str) -> BackupFailed:
    lines = words.strip().splitlines() or ["no word about why"]
    return BackupFailed(
        f"{file} cannot be read, it may be cut short or damaged: {lines[0].removeprefix('pg_restore: ')}"
    )


def _check_version(file: Path, script: str) -> int:
    """Return the version of the schema in a dump. Raises SchemaMismatch when this release does not know it."""
    head = re.search(
        r"^COPY .*schema_version \((?P<columns>.+)\) FROM stdin;$\n(?P<rows>(?:.+\n)*?)\\\.$", script, re.MULTILINE
    )
    if head is None:
        raise BackupFailed(f"{file} holds no version of its schema: it was made with other options than ours")
    columns = head["columns"].split(", ")
    rows = [dict(zip(columns, line.split("\t"), strict=False)) for line in head["rows"].splitlines()]
    known = migrations()
    for row, m in zip(rows, known, strict=False):
        if (row.get("version"), row.get("name"), row.get("checksum")) != (str(m.version), m.name, schema.checksum(m)):
            raise SchemaMismatch(
                f"{file}: its migration {row.get('version')} ({row.get('name')}) is not the one of this AtlasEngine: "
                "it was dumped from a changed or unreleased version; load it with that version; nothing was written",
                found=len(rows),
                wanted=len(known),
            )
    if len(rows) > len(known):
        raise SchemaMismatch(
            f"{file} has schema version {len(rows)}, this AtlasEngine knows {len(known)}: "
            "upgrade AtlasEngine (pip install -U atlasengine); nothing was written",
            found=len(rows),
            wanted=len(known),
        )
    return len(rows)
