"""Databases for the tests: copies of a migrated database.

CREATE DATABASE and DROP DATABASE take 0.2 s of CPU time, longer than most tests. Deleting the rows of a test takes less
than half of that. So the next test uses the same database, unless a test changed more than rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from attrs import define, field
from psycopg.sql import SQL, Identifier
from recycling import RECYCLER
from warm_clients import WARM

from atlas_sdk import Atlas
from atlas_sdk._embedded import locks

#: The migrated database of which the others are copies.
TEMPLATE = "atlas_template"
#: Wait this long for the server to end the connections that a test has closed.
_LEAVE_S = 0.5
#: Bytes. Drop a database with a larger table, because deleting so many rows takes longer.
_LARGE = 2**20

#: Computes a hash of the catalogues. A test that creates, changes or drops an object changes the hash.
_CATALOGUES = """
SELECT sum(hashtextextended(known, 0)) FROM (
    SELECT oid::text || xmin AS known FROM pg_class
    UNION ALL SELECT attrelid::text || attnum || xmin FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT oid::text || xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT oid::text || xmin FROM pg_trigger
    UNION ALL SELECT oid::text || xmin FROM pg_constraint
    UNION ALL SELECT oid::text || xmin FROM pg_policy
    UNION ALL SELECT oid::text || xmin FROM pg_namespace
    UNION ALL SELECT oid::text || xmin FROM pg_extension
    UNION ALL SELECT oid::text || xmin FROM pg_event_trigger
    UNION ALL SELECT oid::text || xmin FROM pg_default_acl
    UNION ALL SELECT oid::text || xmin FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT oid::text || xmin FROM pg_publication
    UNION ALL SELECT setrole::text || setconfig::text FROM pg_db_role_setting AS s
        JOIN pg_database AS d ON d.oid = s.setdatabase WHERE d.datname = current_database()
    UNION ALL SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
) AS catalogues
"""
#: Finds connections of other clients.
_OTHERS = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND pid <> ALL (%s)
"""
_TABLES = """
SELECT c.relname, pg_relation_size(c.oid) AS bytes
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY c.relname
"""
_RESTART = """
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
FROM pg_sequences WHERE last_value IS NOT NULL
"""


#: The connections that clean the databases, which would otherwise read the catalogues anew each time.
_cleaners: dict[str, psycopg.Connection[Any]] = {}


def in_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    head, _, tail = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}?{tail}"


def name_of(url: str) -> str:
    """Return the name of the database in a URL."""
    return url.partition("?")[0].rpartition("/")[2]


@define
class Databases:
    """The migrated databases of one server."""

    #: The URL of any database of the server, for a superuser.
    url: str
    _at_rest: list[str] = field(factory=list)
    #: The hash of the catalogues of a new database.
    _catalogues: object = None
    #: The rows of each table that has rows in a new database.
    _rows: dict[str, object] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        template = in_database(self.url, TEMPLATE)
        Atlas.open(template, migrate=True).close()
        # A database with connections cannot be copied.
        RECYCLER.forget(template)
        with psycopg.connect(template, autocommit=True) as connection:
            for name, size in connection.execute(_TABLES).fetchall():
                if size:
                    self._rows[name] = _rows_of(connection, name)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Lend a migrated database without rows; yield its URL."""
        url = self._at_rest.pop() if self._at_rest else self.make()
        if self._catalogues is None:
            with psycopg.connect(url, autocommit=True) as connection:
                self._catalogues = connection.execute(_CATALOGUES).fetchone()
        yield url
        if self._cleaned(url):
            self._at_rest.append(url)
        else:
            self.drop(url)

    @contextmanager
    def made(self, *, template: str = TEMPLATE) -> Iterator[str]:
        """Make a database and drop it afterwards; yield its URL."""
        url = self.make(template=template)
        yield url
        self.drop(url)

    def make(self, *, template: str = TEMPLATE) -> str:
        """Make a copy of a database; return its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return in_database(self.url, name)

    def drop(self, url: str) -> None:
        """Drop a database and end its connections."""
        WARM.forget(url)
        RECYCLER.forget(url)
        if url in _cleaners:
            _cleaners.pop(url).close()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name_of(url)} WITH (FORCE)")

    def _cleaned(self, url: str) -> bool:
        """Delete the rows that a test left. Return False if it also changed the schema or left a connection."""
        connection = _cleaner(url)
        for _ in locks.polling(_LEAVE_S):
            if connection.execute(_OTHERS, (kept_backends(url),)).fetchone() is None:
                break
        else:
            return False
        with connection.transaction():
            if connection.execute(_CATALOGUES).fetchone() != self._catalogues:
                return False
            # Switch triggers off, because the triggers of some tables refuse deletions.
            connection.execute("SET LOCAL session_replication_role = replica")
            sizes: dict[str, int] = dict(connection.execute(_TABLES).fetchall())
            if any(size > _LARGE for size in sizes.values()):
                return False
            if any(_rows_of(connection, table) != rows for table, rows in self._rows.items()):
                return False
            used = [
                SQL("DELETE FROM {}").format(Identifier(table))
                for table in sizes
                if sizes[table] and table not in self._rows
            ]
            connection.execute(SQL("; ").join([*used, SQL(_RESTART)]))
        return True


#: A function that returns the databases of a server by the server's name.
OfServer = Callable[[str], Databases]


def _rows_of(connection: psycopg.Connection[Any], table: str) -> object:
    whole = SQL("SELECT array_agg(t::text ORDER BY t::text) FROM {} AS t").format(Identifier(table))
    return connection.execute(whole).fetchone()


def _cleaner(url: str) -> psycopg.Connection[Any]:
    """Return the connection that cleans a database; open a new one if a test has ended the last one."""
    try:
        _cleaners[url].execute("SELECT")
    except (KeyError, psycopg.OperationalError):
        _cleaners[url] = psycopg.connect(url, autocommit=True, prepare_threshold=1)
    return _cleaners[url]


def kept_backends(url: str) -> list[int]:
    """Return the ids of the server processes whose connections stay open between tests."""
    cleaner = _cleaners.get(url)
    return WARM.backends(url) + RECYCLER.backends(url) + ([] if cleaner is None else [cleaner.info.backend_pid])


def close_connections() -> None:
    """Close all connections that stay open between tests. A server stops only after its last connection."""
    WARM.forget()
    RECYCLER.forget()
    while _cleaners:
        _cleaners.popitem()[1].close()
