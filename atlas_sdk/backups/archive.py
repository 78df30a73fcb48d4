"""Read a dump: what it holds, and its statements one part after the other. Needs no server."""

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
from atlas_sdk.errors import BackupFailed, FileProblem, SchemaMismatch
from atlas_sdk.ops import schema

__all__ = ["Archive"]

_ENTRY = re.compile(r"^\d+; \d+ \d+ (?P<what>.+)$")
#: The entry of our table of versions: its schema can have any name, its owner is the last word.
_VERSION_TABLE = re.compile(r"^TABLE (?!DATA )(?P<schema>.+) schema_version \S+$")
_MAGIC = b"PGDMP"
_UNKNOWN_SETTING = b"SET transaction_timeout = 0;\n"


@frozen(kw_only=True)
class Archive:
    """A dump in pg_dump's custom format."""

    file: Path
    #: The schema that everything is in.
    schema: str
    #: How many tables have rows in it.
    tables: int
    #: The migrations that made its schema.
    version: int
    _program: Path
    #: What to load, in pg_restore's own words.
    _list: str

    @classmethod
    def open(cls, file: Path) -> "Archive":
        """Read what a dump holds. Raises FileProblem, BackupFailed, and SchemaMismatch when it is too new."""
        try:
            with file.open("rb") as opened:
                magic = opened.read(len(_MAGIC))
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise FileProblem(f"{file} cannot be read: {reason}", path=str(file)) from exc
        if magic != _MAGIC:
            raise BackupFailed(f"{file} is no dump in pg_dump's custom format, as `atlasctl db dump` makes them")
        program = newest("pg_restore", at_least=0)
        listed = _read([program, "--list", file])
        # Existing schemas are what we load into; their comments and owners are not ours to change.
        lines = [line for line in listed.splitlines() if not re.search(r" \d+ (SCHEMA|COMMENT) - (SCHEMA )?\S", line)]
        entries = [found["what"] for line in lines if (found := _ENTRY.match(line))]
        schemas = [found["schema"] for entry in entries if (found := _VERSION_TABLE.match(entry))]
        if len(schemas) != 1:
            raise BackupFailed(f"{file} is a dump of something else: it holds no AtlasEngine schema")
        return cls(
            file=file,
            schema=schemas[0],
            tables=sum(entry.startswith("TABLE DATA ") for entry in entries),
            version=_check_version(file, _read([program, *_DATA, "--table=schema_version", file])),
            program=program,
            list="\n".join(lines),
        )

    def text(self, section: str) -> str:
        """Return the statements of the section "pre-data" or "post-data"."""
        with self._opened(section) as stream:
            return b"".join(_plain(stream)).decode()

    @contextmanager
    def data(self) -> Iterator[Iterator[bytes]]:
        """Open the rows: lines, a COPY statement before those of each table and a dot after a backslash behind them."""
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
                assert process.stdout is not None  # noqa: S101  # asked for above
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
    """Yield the lines of a script without those for psql, and without a setting that servers before 17 do not know."""
    rows = False
    for line in stream:
        if rows:
            # Whatever they look like: a text may begin with a carriage return.
            rows = line != b"\\.\n"
        elif line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n"):
            rows = True
        elif line.startswith((b"\\restrict ", b"\\unrestrict ")) or line == _UNKNOWN_SETTING:
            continue
        yield line


def _read(command: list[str | Path]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )
    if done.returncode != 0:
        raise _unreadable(Path(command[-1]), done.stderr)
    return done.stdout


def _unreadable(file: Path, words: str) -> BackupFailed:
    lines = words.strip().splitlines() or ["no word about why"]
    return BackupFailed(f"{file} cannot be read, it may be cut short: {lines[0].removeprefix('pg_restore: ')}")


def _check_version(file: Path, script: str) -> int:
    """Return the version of the schema in a dump. Raises SchemaMismatch when this release does not know it."""
    head = re.search(
        r"^COPY .*schema_version \((?P<columns>.+)\) FROM stdin;$\n(?P<rows>(?:.+\n)*?)\\\.$", script, re.MULTILINE
    )
    if head is None:
        raise BackupFailed(f"{file} holds no version of its schema: it was made with other options than ours")
    columns = head["columns"].split(", ")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in head["rows"].splitlines()]
    known = migrations()
    if len(rows) > len(known):
        raise SchemaMismatch(
            f"{file} has schema version {len(rows)}, this AtlasEngine knows {len(known)}: "
            "upgrade AtlasEngine (pip install -U atlasengine); nothing was written",
            found=len(rows),
            wanted=len(known),
        )
    made = {(str(m.version), m.name, schema.checksum(m)) for m in known}
    for row in rows:
        if (row["version"], row["name"], row["checksum"]) not in made:
            raise SchemaMismatch(
                f"{file}: its migration {row['version']} ({row['name']}) is not the one of this AtlasEngine: it was "
                "dumped from a changed or unreleased version; nothing was written",
                found=len(rows),
                wanted=len(known),
            )
    return len(rows)
