"""Named SQL statements from files: all SQL is in `sql/`, not in Python."""

import re
from functools import cache
from pathlib import Path

from attrs import field, frozen

__all__ = ["Migration", "Statement", "Statements", "migrations", "read_statements", "sql_root", "statements", "topics"]

_HEADER = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)(?P<reads> \(read\))?[ ]*$", re.MULTILINE)
_COMMENT = re.compile(r"--[^\n]*")


@frozen
class Statement:
    """One named statement of a topic's file."""

    name: str
    text: str
    #: True if the statement changes nothing, so that it may be repeated. Its header then says `-- name: x (read)`.
    reads: bool = field(default=False, kw_only=True, eq=False, repr=False)
    #: True if the statement ends transactions by itself, so that it cannot run inside a transaction.
    commits: bool = field(init=False, eq=False, repr=False)

    @commits.default
    def _commits(self) -> bool:
        return self.plain.startswith("CALL")

    @property
    def plain(self) -> str:
        """The text without its comments."""
        return _COMMENT.sub("", self.text).strip()


@frozen
class Migration:
    """One file of `sql/migrations`: `0004_memory.sql` is version 4, named "memory"."""

    version: int
    name: str
    text: str


def sql_root() -> Path:
    """Return the folder `sql`: inside an installed package, beside the package in a checkout."""
    inside = Path(__file__).parent / "sql"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "sql"


class Statements(dict[str, Statement]):
    """The statements of one topic by name, read from disk when the first of them is used."""

    def __init__(self, topic: str, folder: str = "queries") -> None:
        super().__init__()
        self.topic = topic
        self.folder = folder

    def __missing__(self, name: str) -> Statement:
        # Two threads may do this at the same time: both read the same statements.
        found = read_statements(self.topic, self.folder)
        self.update(found)
        return found[name]


def read_statements(topic: str, folder: str = "queries") -> dict[str, Statement]:
    """Read the named statements of `sql/<folder>/<topic>.sql`, in the order of the file."""
    text = (sql_root() / folder / f"{topic}.sql").read_text("utf-8")
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    texts: dict[str, str] = {}
    for header, end in zip(headers, ends, strict=True):
        if header["name"] in texts:
            message = f"sql/{folder}/{topic}.sql names {header['name']!r} twice"
            raise ValueError(message)
        texts[header["name"]] = text[header.end() : end].strip().rstrip(";")
    # "columns" is not a statement, but the list of columns that several statements of a topic contain.
    columns = texts.pop("columns", "")
    reading = {header["name"] for header in headers if header["reads"]}
    return {
        name: Statement(f"{topic}.{name}", body.replace("{columns}", columns), reads=name in reading)
        for name, body in texts.items()
    }


@cache
def statements(topic: str, folder: str = "queries") -> Statements:
    """Return the named statements of a topic, to be looked up by name."""
    return Statements(topic, folder)


def topics() -> list[str]:
    """Return the topics with a file of statements, sorted."""
    return sorted(file.stem for file in (sql_root() / "queries").glob("*.sql"))


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations in order, numbered from 1 without a gap."""
    found = []
    for number, file in enumerate(sorted((sql_root() / "migrations").glob("[0-9]*.sql")), start=1):
        version, _, name = file.stem.partition("_")
        if int(version) != number:
            message = f"sql/migrations: expected number {number:04}, found {file.name}"
            raise ValueError(message)
        found.append(Migration(number, name, file.read_text("utf-8")))
    return tuple(found)
