"""Read the text of migrations: their commands, and the effect of each command on other clients.

Only the text of a missing migration shows which objects it will make. The inventory has the objects of all migrations
together.
"""

import re
from collections.abc import Iterator

from atlas_sdk._sql import migrations

__all__ = ["about", "commands", "creating", "lock_of", "made_tables"]

#: Matches the parts of a text in which a semicolon or a keyword does not count: comments, strings, quoted names and
#: bodies. Outside of them it matches each semicolon, the end of a command.
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | (?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag) | ;""",
    re.VERBOSE | re.DOTALL,
)
_NAME = r'(?:"[^"]+"|[\w.]+)'
_CREATE = re.compile(
    rf"CREATE (?:OR REPLACE )?(?:UNLOGGED |MATERIALIZED )?(?P<kind>TABLE|VIEW|FUNCTION|PROCEDURE) "
    rf"(?:IF NOT EXISTS )?(?P<name>{_NAME})"
)


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a file, each on one line and without comments. Strings and bodies are not changed."""
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
    """Return the summary of a migration: the first sentence of its first comment."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--") or not line.strip("- "):
            break
        lines.append(line.removeprefix("--").strip())
    return re.split(r"(?<=\.)\s", " ".join(lines))[0].rstrip(".:")


def _plain(name: str) -> str:
    return name.rpartition(".")[2].strip('"')


def _created(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and text of each command that makes a table, a view or a function."""
    for command in commands(text):
        if made := _CREATE.match(command):
            yield made["kind"].lower().replace("procedure", "function"), _plain(made["name"]), command


def made_tables(text: str) -> set[str]:
    """Return the tables and views that a migration makes. No other client can use them yet."""
    return {name for kind, name, _ in _created(text) if kind in {"table", "view"}}


def creating(kind: str, names: set[str]) -> list[str]:
    """Return the last command that makes each of these views or functions, in the order of the migrations."""
    found: dict[str, str] = {}
    for migration in migrations():
        for made, name, command in _created(migration.text):
            if made == kind and name in names:
                # Put the object at the place of its last definition, which may need objects made after the first one.
                found.pop(name, None)
                found[name] = command
    return list(found.values())


_EXCLUSIVE = "blocks reads and writes"
_NO_WRITES = "blocks writes"
#: The beginning of a command, and its effect on other clients that use the table meanwhile.
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


def lock_of(command: str) -> tuple[str, str] | None:
    """Return the table that a command locks, and the effect on other clients; None for a harmless command."""
    for pattern, lock in _LOCKS:
        if found := pattern.match(command):
            return (_plain(found["table"]), lock) if lock else None
    return None
