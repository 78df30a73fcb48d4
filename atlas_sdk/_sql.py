"""Named SQL statements from files: SQL lives in `sql/`, never in Python."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from attrs import field, frozen

__all__ = ["Migration", "Statement", "Statements", "migrations", "statements", "topics"]

_HEADER = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)\s*$", re.MULTILINE)


_COMMENT = re.compile(r"--[^\n]*")
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|INTO)\b", re.IGNORECASE)
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\(")
#: Functions that change nothing; a statement that calls another one is taken for one that writes.
_HARMLESS = frozenset(
    """
    any array_agg bool_or btrim clock_timestamp coalesce count current_database current_setting date_trunc exists
    extract greatest jsonb_agg jsonb_build_object jsonb_object_agg least left length lower make_interval max min now
    nullif numeric octet_length percentile_cont pg_backend_pid pg_database_size round starts_with strpos substr sum
    to_regclass unnest upper build_log_text quota_month quota_ring_take
    """.split()  # noqa: SIM905  # one word a line would be a page
)


@frozen
class Statement:
    """One named statement of a topic's file."""

    name: str
    text: str
    #: Whether it surely changes nothing: doing it twice is doing it once.
    reads: bool = field(init=False, eq=False, repr=False)
    #: Whether it ends transactions by itself, so that it cannot run inside of one.
    commits: bool = field(init=False, eq=False, repr=False)

    @reads.default
    def _reads(self) -> bool:
        plain = self.plain
        return (
            plain.startswith(("SELECT", "WITH", "VALUES"))
            and _WRITES.search(plain) is None
            and all(name.lower() in _HARMLESS for name in _CALLED.findall(plain))
        )

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


def _sql_root() -> Path:
    """In an installed package the files are inside it; in a checkout they stand beside it."""
    inside = Path(__file__).parent / "sql"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "sql"


class Statements(Mapping[str, Statement]):
    """The statements of one topic, read from disk when the first one is asked for."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._loaded: dict[str, Statement] | None = None

    def _load(self) -> dict[str, Statement]:
        if self._loaded is None:
            text = (_sql_root() / "queries" / f"{self.topic}.sql").read_text("utf-8")
            headers = list(_HEADER.finditer(text))
            ends = [header.start() for header in headers[1:]] + [len(text)]
            self._loaded = {}
            for header, end in zip(headers, ends, strict=True):
                name = header["name"]
                if name in self._loaded:
                    message = f"sql/queries/{self.topic}.sql names {name!r} twice"
                    raise ValueError(message)
                self._loaded[name] = Statement(f"{self.topic}.{name}", text[header.end() : end].strip().rstrip(";"))
        return self._loaded

    def __getitem__(self, name: str) -> Statement:
        return self._load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


@cache
def statements(topic: str) -> Statements:
    """Return the named statements of `sql/queries/<topic>.sql`."""
    return Statements(topic)


def topics() -> list[str]:
    """Return the topics that have a file of statements, sorted."""
    return sorted(file.stem for file in (_sql_root() / "queries").glob("*.sql"))


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the migrations in order; their numbers run from 1 without a gap."""
    found = []
    for number, file in enumerate(sorted((_sql_root() / "migrations").glob("[0-9]*.sql")), start=1):
        version, _, name = file.stem.partition("_")
        if int(version) != number:
            message = f"sql/migrations: expected number {number:04}, found {file.name}"
            raise ValueError(message)
        found.append(Migration(number, name, file.read_text("utf-8")))
    return tuple(found)
