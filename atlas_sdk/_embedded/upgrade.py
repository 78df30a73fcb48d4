"""Convert the data of an older major version of PostgreSQL.

The old server runs with its own programs; the new programs dump its data and load the dump into a new data directory.
So an upgraded home is the same as a new one, including sort order and page checksums. The conversion takes longer than
pg_upgrade, which would keep the old locale. The conversion needs room for a second copy of the data and for the dump.

The folders show how far an upgrade came, so a kill at any time does no harm::

    postgres.upgrade/    is being filled; the next attempt deletes it and starts again
    postgres.upgraded/   is complete, its server stopped; while postgres/ exists, the next attempt deletes it too
    postgres.16/         was postgres/; postgres.upgraded/ becomes postgres/ at once, or after a kill at the next start

Callers must hold the start lock.
"""

import itertools
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

from attrs import frozen

from atlas_sdk._embedded import postmaster
from atlas_sdk._embedded.cluster import Cluster
from atlas_sdk._embedded.locks import is_held, polling
from atlas_sdk._embedded.places import MAJOR, Site, binaries_of, carried
from atlas_sdk._embedded.postmaster import DATABASE, PORT, ROLE, Postmaster
from atlas_sdk.errors import EmbeddedServerFailed
from atlas_sdk.home import sync_folder

__all__ = ["finish", "major_of", "present", "upgrade"]

_log = logging.getLogger(__name__)

_MIB = 2**20
#: The size of an empty data directory with its write-ahead log (`max_wal_size`).
_FRESH_BYTES = 384 * _MIB
_LEAVING_S = 60.0

_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
_DATABASES = """SELECT coalesce(json_agg(json_build_array(datname, pg_get_userbyid(datdba)) ORDER BY datname), '[]')
FROM pg_database WHERE datallowconn AND NOT datistemplate"""


def major_of(data_dir: Path) -> str | None:
    """Return the major version of a data directory; None if there is none."""
    try:
        return (data_dir / "PG_VERSION").read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def present(data_dir: Path) -> Path:
    """Return the folder of the data, also after an upgrade that was killed between its two final renames."""
    ready = _beside(data_dir, "upgraded")
    return ready if not data_dir.exists() and ready.exists() else data_dir


def finish(data_dir: Path) -> None:
    """Finish an upgrade that was killed between its two final renames."""
    ready = _beside(data_dir, "upgraded")
    if not data_dir.exists() and major_of(ready) == MAJOR:
        _rename(ready, data_dir)
        _log.warning("Finished an interrupted upgrade of %s", data_dir)


def upgrade(site: Site, data_dir: Path, bin_dir: Path) -> None:
    """Upgrade the data of an older major version; do nothing for the present one.

    Raises `EmbeddedServerFailed`; the old data stays unchanged then.
    """
    major = major_of(data_dir)
    if major in {None, MAJOR}:
        # Remove the dumps of an upgrade that was killed after its last step.
        shutil.rmtree(site.run_dir / "upgrade", ignore_errors=True)
        return
    old_bin = _programs_for(str(major), site, data_dir)
    _Upgrade(
        site=site,
        old=Cluster(
            site=site,
            data_dir=data_dir,
            bin_dir=old_bin,
            major=str(major),
            # A program with another release may join the running server. Refuse its writes, because an upgrade would
            # lose all writes after the dump.
            options=("default_transaction_read_only=on",),
        ),
        new=Cluster(site=site, data_dir=_beside(data_dir, "upgrade"), bin_dir=bin_dir),
    ).run()


def _programs_for(major: str, site: Site, data_dir: Path) -> Path:
    if not major.isdecimal() or int(major) > int(MAJOR):
        raise EmbeddedServerFailed(
            f"{data_dir} was made by PostgreSQL {major}, which is newer than {MAJOR}, the one of this release: "
            "upgrade AtlasEngine (pip install -U atlasengine), or set ATLAS_HOME to another folder"
        )
    found = binaries_of(major, site.account)
    if found is None:
        raise EmbeddedServerFailed(
            f"{data_dir} was made by PostgreSQL {major}, and this release has {' and '.join(sorted(carried()))}: "
            f"dump it with a release of AtlasEngine that has {major} (atlasctl db dump FILE), move the folder away "
            "and load the dump (atlasctl db load FILE), or set ATLAS_HOME to another folder"
        )
    return found


@frozen(kw_only=True)
class _Upgrade:
    site: Site
    old: Cluster
    new: Cluster

    @property
    def _dumps(self) -> Path:
        return self.site.run_dir / "upgrade"

    def run(self) -> None:
        data_dir = self.old.data_dir
        self._end_servers()
        self._clean()
        self._check_room()
        _log.warning(
            "Upgrading %s from PostgreSQL %s to %s (%d MiB) …",
            *(data_dir, self.old.major, self.new.major, _size(data_dir) // _MIB),
        )
        try:
            databases = self._dump()
            _log.warning("… dumped, %d MiB; loading …", _size(self._dumps) // _MIB)
            self._load(databases)
        except BaseException as problem:
            self._end_servers()
            self._clean()
            if isinstance(problem, _Refused):
                raise EmbeddedServerFailed(
                    f"{data_dir} was made by PostgreSQL {self.old.major} and could not be upgraded to "
                    f"{self.new.major}: {problem}; the old data is unchanged; mend that, or give a server with "
                    "--dsn or ATLAS_DATABASE_URL"
                ) from problem
            raise
        _rename(self.new.data_dir, _beside(data_dir, "upgraded"))
        kept = self._switch()
        shutil.rmtree(self._dumps, ignore_errors=True)
        _log.warning("… upgraded. The old data is kept in %s: remove it when all is well", kept)

    def _end_servers(self) -> None:
        """Stop the server of an older release if nobody uses it, and the servers of a killed upgrade."""
        lock = self.site.server_lock
        for _ in polling(_LEAVING_S):
            if not is_held(lock):
                return
            if postmaster.answering(self.new.data_dir) is not None:
                self.new.stop()
            running = postmaster.answering(self.old.data_dir)
            if running is not None:
                # While an upgrade is under way, all sessions are its own; on a full disk the question would fail.
                sessions = 0 if self._dumps.exists() else int(self._psql(running, _SESSIONS))
                if sessions:
                    raise EmbeddedServerFailed(
                        f"{self.old.data_dir} must be upgraded from PostgreSQL {self.old.major} to {self.new.major}, "
                        f"and an older release is using it ({sessions} "
                        f"connection{'s' if sessions > 1 else ''}): end its programs and try again"
                    )
                self.old.stop()

    def _clean(self) -> None:
        """Remove the folders of a killed or failed upgrade; do not touch the data itself."""
        half = self.new.data_dir
        for folder in (half, _beside(half, "new"), _beside(self.old.data_dir, "upgraded"), self._dumps):
            if folder.exists():
                shutil.rmtree(folder)

    def _check_room(self) -> None:
        """Refuse if a disk has too little room for a copy of the data and a dump, which may be as large as the data."""
        size = _size(self.old.data_dir)
        needed: dict[int, tuple[Path, int]] = {}
        for folder, more in ((self.old.data_dir.parent, size + _FRESH_BYTES), (self.site.run_dir, size)):
            disk = folder.stat().st_dev
            needed[disk] = (folder, more + needed.get(disk, (folder, 0))[1])
        for folder, wanted in needed.values():
            free = shutil.disk_usage(folder).free
            if free < wanted:
                raise EmbeddedServerFailed(
                    f"{self.old.data_dir} must be upgraded from PostgreSQL {self.old.major} to {self.new.major}, "
                    f"which takes up to {wanted // _MIB:,} MiB on the disk of {folder}, and {free // _MIB:,} MiB are "
                    "free: make room and try again; nothing was changed"
                )

    def _dump(self) -> list[tuple[str, str]]:
        """Dump roles and databases into files; return the names of the databases and their owners."""
        self._dumps.mkdir(mode=0o700)
        server = self.old.serve()
        databases = [(str(name), str(owner)) for name, owner in json.loads(self._psql(server, _DATABASES))]
        self._ask(server, "pg_dumpall", "--roles-only", "--file", self._dumps / "roles.sql")
        for number, (name, _) in enumerate(databases):
            file = self._dumps / f"{number}.dump"
            self._ask(server, "pg_dump", "--format=custom", "--file", file, "--dbname", _named(name))
        self.old.stop()
        return databases

    def _load(self, databases: list[tuple[str, str]]) -> None:
        server = self.new.serve()
        roles = (self._dumps / "roles.sql").read_text(encoding="utf-8")
        # Leave out this role: initdb has created it.
        self._psql(server, roles.replace(f"\nCREATE ROLE {ROLE};\n", "\n", 1))
        for number, (name, owner) in enumerate(databases):
            made = name in {"postgres", DATABASE}
            verb = 'ALTER DATABASE :"name" OWNER TO :"owner"' if made else 'CREATE DATABASE :"name" OWNER :"owner"'
            self._psql(server, verb, name=name, owner=owner)
            how = ("--exit-on-error", "--single-transaction", "--dbname", _named(name))
            self._ask(server, "pg_restore", *how, self._dumps / f"{number}.dump")
        self._ask(server, "vacuumdb", "--all", "--analyze-only", "--quiet")
        self.new.stop()

    def _switch(self) -> Path:
        """Put the new data in the place of the old; return the folder that keeps the old data."""
        data_dir = self.old.data_dir
        names = itertools.chain([self.old.major], (f"{self.old.major}-{number}" for number in itertools.count(2)))
        kept = next(path for path in (_beside(data_dir, name) for name in names) if not path.exists())
        _rename(data_dir, kept)
        _rename(_beside(data_dir, "upgraded"), data_dir)
        return kept

    def _psql(self, server: Postmaster, script: str, **names: str) -> str:
        variables = (word for name, value in names.items() for word in ("-v", f"{name}={value}"))
        return self._ask(server, "psql", "-d", "postgres", "-v", "ON_ERROR_STOP=1", *variables, stdin=script)

    def _ask(self, server: Postmaster, program: str, *arguments: str | Path, stdin: str = "") -> str:
        """Run a program of the new version, as the OS user who may connect; return its output."""
        quiet = ("-XAtq",) if program == "psql" else ()
        environment = {"PGHOST": os.fspath(server.socket_dir), "PGPORT": str(PORT), "PGUSER": ROLE, "LC_ALL": "C"}
        environment["PGREQUIREPEER"] = self.site.account.name
        done = subprocess.run(
            [self.new.bin_dir / program, *quiet, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment | {"PGCLIENTENCODING": "UTF8"},
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise _Refused(f"{program}: {lines[0].removeprefix(f'{program}: ')}")
        return done.stdout


class _Refused(Exception):
    """The failure of one of PostgreSQL's programs, with the program's message."""


def _named(database: str) -> str:
    """Return a connection string for a database. libpq would read a plain name with a "=" as a connection string."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def _beside(data_dir: Path, suffix: str) -> Path:
    return data_dir.with_name(f"{data_dir.name}.{suffix}")


def _size(folder: Path) -> int:
    """Return the size in bytes of the files below a folder, without the write-ahead log."""
    total = 0
    for path, folders, files in os.walk(folder):
        if "pg_wal" in folders:
            folders.remove("pg_wal")
        total += sum(os.lstat(os.path.join(path, name)).st_size for name in files)  # noqa: PTH118  # takes half the time
    return total


def _rename(source: Path, target: Path) -> None:
    """Rename a folder, and make the rename durable before anything else happens."""
    source.rename(target)
    sync_folder(target.parent)
