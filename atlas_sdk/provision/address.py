"""Addresses of databases: a DSN, or the DB_* variables of the environment."""

import getpass
import re
import shlex
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote

from attrs import Attribute, field, frozen

from atlas_sdk.dsn import libpq_defaults, parsed, place, with_parts, without_secrets
from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted

__all__ = ["MAINTENANCE", "Address"]

#: The database that every server has, used for commands that concern the whole server.
MAINTENANCE: Final = "postgres"
#: For each variable: the part of a DSN that it gives, and the default of that part if only other variables are set.
_VARIABLES: Final[dict[str, tuple[str, str | None]]] = {
    "DB_HOST": ("host", "localhost"),
    "DB_PORT": ("port", "5432"),
    "DB_NAME": ("dbname", "atlasengine"),
    "DB_USER": ("user", "atlasengine"),
    "DB_PASSWORD": ("password", None),
}
_LAST_PORT = 65_535
#: The commands in a hint that need the address of the database.
_COMMAND: Final = re.compile(r"\batlasctl db (?:init|migrate(?: --plan)?|doctor|dump [\w.]+)")
_IN_URL: Final = frozenset({"host", "port", "user", "dbname", "password"})


def _readable(_self: "Address", _attribute: "Attribute[str]", dsn: str) -> None:
    parsed(dsn)


@frozen(kw_only=True)
class Address:
    """A database on a server, and the source of its address; `repr` and `str` show no secret.

    Raises InvalidInput for a DSN that cannot be read; the error shows nothing of the DSN.
    """

    #: The variables that `of_environment` reads.
    VARIABLES: ClassVar[tuple[str, ...]] = tuple(_VARIABLES)

    dsn: str = field(repr=False, validator=_readable)
    #: The option or the variables that gave the address: "--dsn", "ATLAS_DATABASE_URL", "DB_HOST, DB_NAME", …
    source: str = "--dsn"

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Address | None":
        """Return the address in DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD; None when none of them is set.

        The defaults are localhost, 5432, and atlasengine for both the database and the user. Raises InvalidInput for a
        port that is no number from 1 to 65535.
        """
        given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
        if not given:
            return None
        port = given.get("DB_PORT", "")
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
            raise InvalidInput(f"DB_PORT is a number from 1 to {_LAST_PORT}; not {quoted(port)}", field="DB_PORT")
        parts = {key: given.get(name, default) for name, (key, default) in _VARIABLES.items()}
        return cls(dsn=with_parts("", **parts), source=", ".join(given))

    @property
    def place(self) -> str:
        """The login and the database, without secrets: "ada@db.example:5432/atlas"."""
        return place(self.dsn)

    @property
    def database(self) -> str | None:
        """The name of the database; None when only a service file names it."""
        parts = self._parts()
        if parts.get("dbname"):
            return parts["dbname"]
        defaults = libpq_defaults()
        if parts.get("service") or defaults.get("service"):
            return None
        return defaults.get("dbname") or self.user

    @property
    def user(self) -> str:
        """The role to connect as."""
        return self._parts().get("user") or libpq_defaults().get("user") or getpass.getuser()

    @property
    def host(self) -> str:
        """The server: a name, an address, or the folder of its socket."""
        parts, defaults = self._parts(), libpq_defaults()
        return parts.get("host") or parts.get("hostaddr") or defaults.get("host") or "/var/run/postgresql"

    @property
    def port(self) -> str:
        """The port of the server, or of its socket."""
        return self._parts().get("port") or libpq_defaults().get("port") or "5432"

    @property
    def url(self) -> str:
        """The address as a URL: user, host, port and database, and nothing else of the DSN."""
        name = quote(self.database or "", safe="")
        if self.host.startswith("/"):
            return f"postgresql://{quote(self.user, safe='')}@/{name}?host={quote(self.host, safe='')}&port={self.port}"
        return f"postgresql://{quote(self.user, safe='')}@{self.host}:{self.port}/{name}"

    @property
    def option(self) -> str:
        """The option that gives a command this address, "--dsn …" without secrets; "" when the command needs none."""
        if self.source != "--dsn" and not self.source.startswith("DB_"):
            return ""
        parts = self._parts()
        if parts.keys() <= _IN_URL and self.database is not None:
            return f"--dsn {shlex.quote(self.url)}"
        return f"--dsn {shlex.quote(with_parts('', **without_secrets(parts)))}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the parts that `option` leaves out, such as "password"."""
        parts = self._parts()
        return tuple(sorted(parts.keys() - without_secrets(parts).keys()))

    def aim(self, text: str, *, option: str | None = None) -> str:
        """Return a hint in which each command has `option`, by default the option that names this database."""
        more = self.option if option is None else option
        return _COMMAND.sub(lambda found: f"{found[0]} {more}".rstrip(), text)

    def of(self, database: str) -> "Address":
        """Return the address of another database of the same server."""
        return Address(dsn=with_parts(self.dsn, dbname=database), source=self.source)

    def _parts(self) -> dict[str, str]:
        return parsed(self.dsn)
