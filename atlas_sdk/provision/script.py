"""Files of SQL as lists of commands, and what a command does to objects and locks."""

import re
from collections.abc import Iterator
from functools import cache

from attrs import evolve, field, frozen

from atlas_sdk._sql import migrations, statements

__all__ = ["Catalogue", "Thing", "about", "commands", "expected", "lock_of", "made_tables"]

#: What a semicolon or a keyword in it does not count: comments, texts, quoted names, bodies; else a semicolon.
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | (?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag) | ;""",
    re.VERBOSE | re.DOTALL,
)
_NAME = r'(?:"[^"]+"|[\w.]+)'
_CREATE = re.compile(
    rf"""CREATE\ (?:OR\ REPLACE\ )?(?:UNIQUE\ |UNLOGGED\ |CONSTRAINT\ |MATERIALIZED\ )?
    (?P<kind>TABLE|VIEW|FUNCTION|PROCEDURE|INDEX|TRIGGER|POLICY|DOMAIN|TYPE)\ (?:CONCURRENTLY\ )?(?:IF\ NOT\ EXISTS\ )?
    (?P<name>{_NAME})""",
    re.VERBOSE,
)
_DROP = re.compile(
    r"""DROP\ (?:MATERIALIZED\ )?
    (?P<kind>TABLE|VIEW|FUNCTION|PROCEDURE|INDEX|TRIGGER|POLICY|DOMAIN|TYPE)\ (?:IF\ EXISTS\ )?
    (?P<names>.+?)(?:\ CASCADE|\ RESTRICT)?$""",
    re.VERBOSE,
)
_ON = re.compile(rf"\bON (?:ONLY )?(?P<table>{_NAME})")
_ALTERED = re.compile(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?P<table>{_NAME})")
#: What changes functions: one command, or a block that writes such commands.
_SETTING = re.compile(
    r"ALTER FUNCTION|(?:GRANT|REVOKE) .* ON FUNCTION|DO\b.*(?:ALTER FUNCTION|(?:GRANT|REVOKE) [^;]* ON FUNCTION)",
    re.DOTALL,
)
_KINDS = {"PROCEDURE": "function", "DOMAIN": "type"}
_ON_TABLES = frozenset({"index", "trigger", "policy"})


@frozen
class Thing:
    """One object that the migrations make."""

    #: "table", "view", "function", "type", "index", "trigger", "policy", or "row security" for a table that has it on.
    kind: str
    name: str
    #: What an index, a trigger or a policy is on.
    on_table: str | None = None
    #: The command that makes it, and the file that has it.
    text: str = field(default="", eq=False, repr=False)
    origin: str = field(default="", eq=False)
    #: Which of all commands that is: what it needs comes before.
    number: int = field(default=0, eq=False, repr=False)

    def __str__(self) -> str:
        return self.name if self.on_table is None else f"{self.name} on {self.on_table}"


@frozen
class Catalogue:
    """All objects that there are once the migrations have run, as their files say."""

    things: frozenset[Thing]
    #: Commands that change functions which are there; doing them again changes nothing.
    settings: tuple[str, ...] = ()

    def of(self, kind: str) -> dict[tuple[str, str | None], Thing]:
        """Return the objects of a kind, by name and table."""
        return {(thing.name, thing.on_table): thing for thing in self.things if thing.kind == kind}

    def names(self, *kinds: str) -> list[str]:
        """Return the names of the objects of some kinds, sorted."""
        return sorted({thing.name for thing in self.things if thing.kind in kinds})


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a file, without comments and on one line each; texts and bodies stay as they are."""
    parts: list[str] = []
    at = 0

    def joined() -> str:
        return "".join(parts).strip()

    for token in _TOKEN.finditer(text):
        parts.append(re.sub(r"\s+", " ", text[at : token.start()]))
        at = token.end()
        if token[0] == ";":
            if joined():
                yield joined()
            parts.clear()
        elif not token[0].startswith(("--", "/*")):
            parts.append(token[0])
    parts.append(re.sub(r"\s+", " ", text[at:]))
    if joined():
        yield joined()


def about(text: str) -> str:
    """Return what a migration says of itself: the first sentence of its first comment."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--") or not line.strip("- "):
            break
        lines.append(line.removeprefix("--").strip())
    return re.split(r"(?<=\.)\s", " ".join(lines))[0].rstrip(".:")


def _plain(name: str) -> str:
    return name.rpartition(".")[2].strip('"')


@cache
def expected() -> Catalogue:
    """Return what the migrations of this package make; a test compares it with a database that they made."""
    found: dict[Thing, Thing] = {}
    files = [("queries/schema.sql", statements("schema")["create_version_table"].text)]
    files += [(f"migrations/{known.version:04}_{known.name}.sql", known.text) for known in migrations()]
    settings = []
    numbered = enumerate((origin, command) for origin, text in files for command in commands(text))
    for number, (origin, command) in numbered:
        if _SETTING.match(command):
            settings.append(command)
        for thing in _made(command):
            found[thing] = evolve(thing, origin=origin, number=number)
        for kind, name, table in _dropped(command):
            for thing in list(found):
                itself = (thing.kind, thing.name) == (kind, name) and table in {None, thing.on_table}
                goes_along = kind == "table" and (thing.on_table == name or (thing.kind, thing.name) == _secured(name))
                if itself or goes_along:
                    del found[thing]
    return Catalogue(frozenset(found.values()), tuple(settings))


def _secured(table: str) -> tuple[str, str]:
    return ("row security", table)


def _made(command: str) -> Iterator[Thing]:
    if made := _CREATE.match(command):
        kind = _KINDS.get(made["kind"], made["kind"].lower())
        # A trigger's event may name columns after OF and its condition anything: the first ON is the table's.
        on = _ON.search(command, made.end()) if kind in _ON_TABLES else None
        yield Thing(kind, _plain(made["name"]), None if on is None else _plain(on["table"]), command)
    elif (altered := _ALTERED.match(command)) and "ENABLE ROW LEVEL SECURITY" in command:
        yield Thing("row security", _plain(altered["table"]), None, command)


def _dropped(command: str) -> Iterator[tuple[str, str, str | None]]:
    if altered := _ALTERED.match(command):
        if "DISABLE ROW LEVEL SECURITY" in command:
            yield ("row security", _plain(altered["table"]), None)
        return
    if (dropped := _DROP.match(command)) is None:
        return
    kind = _KINDS.get(dropped["kind"], dropped["kind"].lower())
    if kind in {"trigger", "policy"}:
        name, _, table = dropped["names"].partition(" ON ")
        yield (kind, _plain(name), _plain(table))
        return
    for name in re.sub(r"\([^)]*\)", "", dropped["names"]).split(","):
        yield (kind, _plain(name.strip()), None)


_EXCLUSIVE = "blocks reads and writes"
_NO_WRITES = "blocks writes"
#: How a command begins, and what it does to others who use the table meanwhile.
_LOCKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), lock)
    for pattern, lock in (
        (rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?P<table>{_NAME}) VALIDATE CONSTRAINT", ""),
        (rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?P<table>{_NAME})", _EXCLUSIVE),
        (rf"(?:ALTER|CREATE|DROP) POLICY {_NAME} ON (?P<table>{_NAME})", _EXCLUSIVE),
        (rf"DROP TABLE (?:IF EXISTS )?(?P<table>{_NAME})", _EXCLUSIVE),
        (rf"DROP INDEX (?:IF EXISTS )?(?P<table>{_NAME})", _EXCLUSIVE),
        (rf"(?:DROP|CREATE OR REPLACE) VIEW (?:IF EXISTS )?(?P<table>{_NAME})", _EXCLUSIVE),
        (rf"(?:TRUNCATE|LOCK)(?: TABLE)? (?:ONLY )?(?P<table>{_NAME})", _EXCLUSIVE),
        (rf"(?:CLUSTER|REINDEX|VACUUM FULL|REFRESH MATERIALIZED VIEW).*? (?P<table>{_NAME})$", _EXCLUSIVE),
        (rf"DROP TRIGGER (?:IF EXISTS )?{_NAME} ON (?P<table>{_NAME})", _EXCLUSIVE),
        (
            rf"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?{_NAME} ON (?:ONLY )?(?P<table>{_NAME})",
            f"{_NO_WRITES} while it reads the whole table",
        ),
        (rf"CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER {_NAME} .*?\bON (?P<table>{_NAME})", _NO_WRITES),
        (rf"(?:UPDATE|DELETE FROM) (?:ONLY )?(?P<table>{_NAME})", "locks every row that it changes"),
        (rf"ALTER DOMAIN (?P<table>{_NAME}) (?:ADD|VALIDATE)", "reads every table with such a column"),
        (r"DO\b(?P<table>)", "runs code whose locks its text does not tell"),
    )
)


def made_tables(text: str) -> set[str]:
    """Return the tables and views that a file makes: nobody can be using them yet."""
    return {thing.name for command in commands(text) for thing in _made(command) if thing.kind in {"table", "view"}}


def lock_of(command: str) -> tuple[str, str] | None:
    """Return which table a command takes a lock on that others feel, and what they feel; None: none worth telling."""
    for pattern, lock in _LOCKS:
        if found := pattern.match(command):
            return (_plain(found["table"]), lock) if lock else None
    return None
