"""PostgreSQL servers for tests that change roles or settings, or stop the server."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from made_once import copy_content, made_once, server_folder
from psycopg import sql

from atlas_sdk._embedded.account import find_account
from atlas_sdk._embedded.places import find_binaries

#: The password of the roles that a test makes. Over TCP every login needs it but the superuser.
PASSWORD = "s3cret: 'of' a role%"
_SYSTEM = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
#: "bundled" stands for the programs of the embedded server, and "system" for Debian's, where they are installed.
PROGRAMS = ["bundled"] + (["system"] if _SYSTEM else [])
_HBA = "host all postgres all trust\nhost all all all scram-sha-256\n"


class Guard:
    """A process that runs a command if this process ends without `dismiss`, as after a kill."""

    def __init__(self, command: Sequence[str | Path], identity: dict[str, Any]) -> None:
        # The pipe has no other writer, so reading from it ends with this process.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; exec "$@"', "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            **identity,
        )

    def dismiss(self) -> None:
        self._process.kill()
        self._process.communicate()


class PrivateServer:
    """A server on its own port, with the defaults of a package: durable, UTF8, empty."""

    def __init__(self, programs: str, folder: Path) -> None:
        self._identity: dict[str, Any] = {}
        self._guard: Guard | None = None
        if programs == "system":
            self.bin_dir = _SYSTEM[0]
            account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        else:
            found = find_account()
            self.bin_dir = find_binaries(found)
            account = pwd.getpwnam(found.name) if found.is_other else None
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.log = folder / "log"
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        copy_content(made_once(f"private-{programs}", self._initdb), folder)
        (self.data / "pg_hba.conf").write_text(_HBA)

    def _initdb(self, folder: Path) -> None:
        if self._identity:
            os.chown(folder, self._identity["user"], self._identity["group"])
        login = ("-U", "postgres", "-A", "trust")
        self._run("initdb", "-D", folder / "data", *login, "-E", "UTF8", "--locale=C", "-N")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self.bin_dir / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **self._identity)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self, *settings: str) -> None:
        """Start the server, with settings on its command line such as "max_connections=10"."""
        given = {"listen_addresses": "'127.0.0.1'", "port": self.port, "unix_socket_directories": "''"}
        options = " ".join(f"-c {name}={value}" for name, value in given.items())
        options += "".join(f" -c {setting}" for setting in settings)
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.log, "-o", options, "start")
        if self._guard is not None:
            self._guard.dismiss()
        self._guard = Guard([self.bin_dir / "pg_ctl", *self._stop], self._identity)

    def stop(self) -> None:
        """Stop the server at once."""
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None
        self._run("pg_ctl", *self._stop)

    @property
    def _stop(self) -> tuple[str | Path, ...]:
        return ("-D", self.data, "-m", "immediate", "stop")

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        """Return the address of a database."""
        login = quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def ask(self, statement: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def psql(self, script: str, database: str = "postgres") -> None:
        """Run a script as the administrator would."""
        command = [self.bin_dir / "psql", "-X", "-v", "ON_ERROR_STOP=1", self.url(database)]
        done = subprocess.run(command, input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def add_login(self, name: str, attributes: str = "") -> None:
        """Make a role that logs in with PASSWORD."""
        command = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} ").format(sql.Identifier(name), sql.Literal(PASSWORD))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(command + sql.SQL(attributes))

    def everything(self) -> list[Any]:
        """Return all roles, memberships and databases, and the objects, owners and grants in each, to compare."""
        databases = self.ask("SELECT datname, pg_get_userbyid(datdba), datacl::text FROM pg_database ORDER BY 1")
        found: list[Any] = [
            databases,
            self.ask("SELECT rolname, rolcanlogin, rolsuper FROM pg_roles ORDER BY 1"),
            self.ask("SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members ORDER BY 1, 2"),
        ]
        for name, *_ in databases:
            if name != "template0":
                found += [
                    self.ask("SELECT oid, relname, relowner, relacl::text FROM pg_class ORDER BY oid", database=name),
                    self.ask("SELECT oid, proname, proowner, proacl::text FROM pg_proc ORDER BY oid", database=name),
                    self.ask(
                        "SELECT oid, nspname, nspowner, nspacl::text FROM pg_namespace ORDER BY oid", database=name
                    ),
                ]
        return found

    def empty(self) -> None:
        """Drop every database and role that a test made, and reset every setting."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            for (name,) in connection.execute(
                "SELECT datname FROM pg_database WHERE datname !~ '^(postgres|template.)$'"
            ):
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^(postgres|pg_.*)$'"):
                connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
            connection.execute("ALTER SYSTEM RESET ALL")
            connection.execute("SELECT pg_reload_conf()")


@contextmanager
def private_server(programs: str, *settings: str) -> Iterator[PrivateServer]:
    """Run a private server, with settings on its command line."""
    folder = server_folder("atlas-own-")
    server = PrivateServer(programs, folder)
    server.start(*settings)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def steps(ran: Any) -> dict[str, str]:
    """Return the mark of each step in the output of `db init`. If two steps have the same name, the last one counts."""
    told = [line for line in ran.err.splitlines() if line[:1] in set("✓·+-✗")]
    return {re.split(r"\s{2,}", line[2:])[0]: line[0] for line in told}
