"""Which database is meant: a DSN, or the DB_* variables of the environment."""

import getpass
import re
import shlex
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote

from attrs import Attribute, field, frozen
from psycopg import pq
from psycopg.conninfo import make_conninfo

from atlas_sdk.dsn import parsed, place, without_secrets
from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted

__all__ = ["MAINTENANCE", "Address"]

#: The database that every server has, for what concerns the whole server.
MAINTENANCE: Final = "postgres"
#: What each variable is to libpq, and what it is when others are set and it is not.
_VARIABLES: Final[dict[str, tuple[str, str | None]]] = {
    "DB_HOST": ("host", "localhost"),
    "DB_PORT": ("port", "5432"),
    "DB_NAME": ("dbname", "atlasengine"),
    "DB_USER": ("user", "atlasengine"),
    "DB_PASSWORD": ("password", None),
}
_LAST_PORT = 65_535
#: Commands in a hint that are about the same database.
_COMMAND: Final = re.compile(r"\batlasctl db (?:init|migrate(?: --plan)?|doctor|dump [\w.]+)")
_IN_URL: Final = frozenset({"host", "port", "user", "dbname", "password"})


def _readable(_self: "Address", _attribute: "Attribute[str]", dsn: str) -> None:
    parsed(dsn)


@frozen(kw_only=True)
class Address:
    """A database on a server, and where that was said; neither of its texts shows a secret.

    Raises InvalidInput for a DSN that cannot be read, before anything of it is shown.
    """

    #: The variables that `of_environment` reads.
    VARIABLES: ClassVar[tuple[str, ...]] = tuple(_VARIABLES)

    dsn: str = field(repr=False, validator=_readable)
    #: "--dsn", "ATLAS_DATABASE_URL", "DB_HOST, DB_NAME", …
    source: str = "--dsn"

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Address | None":
        """Return what DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD say; None when none of them is set.

        What is missing beside others: localhost, 5432, and atlasengine for both the database and the user. Raises
        InvalidInput for a port that is none.
        """
        given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
        if not given:
            return None
        port = given.get("DB_PORT", "")
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
            raise InvalidInput(f"DB_PORT is a number from 1 to {_LAST_PORT}; not {quoted(port)}", field="DB_PORT")
        parts = {key: given.get(name, default) for name, (key, default) in _VARIABLES.items()}
        return cls(dsn=make_conninfo("", **parts), source=", ".join(given))

    @property
    def place(self) -> str:
        """The login and the database, without secrets: "ada@db.example:5432/atlas"."""
        return place(self.dsn)

    @property
    def database(self) -> str | None:
        """The name of the database; None when only a service file knows."""
        parts = self._parts()
        if parts.get("dbname"):
            return parts["dbname"]
        defaults = _defaults()
        if parts.get("service") or defaults.get("service"):
            return None
        return defaults.get("dbname") or self.user

    @property
    def user(self) -> str:
        """The role to connect as."""
        return self._parts().get("user") or _defaults().get("user") or getpass.getuser()

    @property
    def host(self) -> str:
        """The server: a name, an address, or the folder of its socket."""
        parts, defaults = self._parts(), _defaults()
        return parts.get("host") or parts.get("hostaddr") or defaults.get("host") or "/var/run/postgresql"

    @property
    def port(self) -> str:
        """The port of the server, or of its socket."""
        return self._parts().get("port") or _defaults().get("port") or "5432"

    @property
    def url(self) -> str:
        """The address as a URL, without the password and without what else a DSN may hold."""
        name = quote(self.database or "", safe="")
        if self.host.startswith("/"):
            return f"postgresql://{quote(self.user, safe='')}@/{name}?host={quote(self.host, safe='')}&port={self.port}"
        return f"postgresql://{quote(self.user, safe='')}@{self.host}:{self.port}/{name}"

    @property
    def option(self) -> str:
        """The options that lead a command to the same database: "--dsn …" without secrets; "" when none is needed."""
        if self.source != "--dsn" and not self.source.startswith("DB_"):
            return ""
        parts = self._parts()
        if parts.keys() <= _IN_URL and self.database is not None:
            return f"--dsn {shlex.quote(self.url)}"
        return f"--dsn {shlex.quote(make_conninfo('', **without_secrets(parts)))}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the parts that `option` leaves out, such as "password"."""
        parts = self._parts()
        return tuple(sorted(parts.keys() - without_secrets(parts).keys()))

    def aim(self, text: str, *, option: str | None = None) -> str:
        """Return a hint with its commands going to this database, or with another option after them."""
        more = self.option if option is None else option
        return _COMMAND.sub(lambda found: f"{found[0]} {more}".rstrip(), text)

    def of(self, database: str) -> "Address":
        """Return another database of the same server."""
        return Address(dsn=make_conninfo(self.dsn, dbname=database), source=self.source)

    def _parts(self) -> dict[str, str]:
        return parsed(self.dsn)


def _defaults() -> dict[str, str]:
    """Return what libpq takes from its own environment variables."""
    options = pq.Conninfo.get_defaults()
    return {option.keyword.decode(): option.val.decode() for option in options if option.val}
