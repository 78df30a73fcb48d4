"""Find PostgreSQL's own programs: those of the embedded server and those of the system."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from atlas_sdk.errors import BackupFailed

__all__ = ["newest", "of_server"]

#: The folders in which systems keep several major versions side by side: Debian, Red Hat, Homebrew on both
#: architectures, Postgres.app.
_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/opt/homebrew/opt", "libpq/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "libpq/bin"),
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
)
_WITHOUT_TLS = "SSL support is not compiled in"


#: The major and the minor version.
Version = tuple[int, int]


def of_server(name: str, server: Version, *, tls: bool = False) -> Path:
    """Return the best program for a server: one of its own major and at least its minor, else the newest.

    A newer minor version of a server may have entries in its catalogues that only its own programs understand.
    Raises BackupFailed as `newest` does.
    """
    for version, path in _found(name):
        if version[0] == server[0] and version >= server and (not tls or _has_tls(path)):
            return path
    return newest(name, at_least=server[0], tls=tls)


def newest(name: str, *, at_least: int, tls: bool = False) -> Path:
    """Return the newest program with this name.

    A pg_dump can read servers of its own major version and older ones; a pg_restore can read their dumps. With `tls`,
    the program must support TLS; those of the embedded server do not. Raises BackupFailed that says which program is
    missing and how to get it.
    """
    found = _found(name)
    fitting = [path for (major, _), path in found if major >= at_least]
    for path in fitting:
        if not tls or _has_tls(path):
            return path
    if fitting:
        reason = f"the connection uses TLS, and no {name} here was built with it"
    elif found and found[0][0][0]:
        (major, _), path = found[0]
        reason = f"the server is PostgreSQL {at_least}, and the newest {name} here is of {major} ({path})"
    else:
        reason = f"there is no {name} here"
    raise BackupFailed(
        f"{reason}: install PostgreSQL's client programs, version {at_least} or newer "
        f"(apt install postgresql-client-{at_least}, dnf install postgresql{at_least}, brew install libpq)"
    )


def _found(name: str) -> list[tuple[Version, Path]]:
    """Return the programs with this name, the newest first; within a version, the embedded server's come first."""
    programs = [(_version(path), path) for path in dict.fromkeys(_candidates(name))]
    return sorted(programs, key=lambda program: program[0], reverse=True)


def _candidates(name: str) -> Iterator[Path]:
    if sys.platform != "win32":
        from atlas_sdk._embedded.places import carried  # noqa: PLC0415  # needs modules that only Unix has

        # Yield these first: sorting keeps the order of programs of one version.
        yield from (path for tree in carried().values() if (path := tree / "bin" / name).exists())
    if on_path := shutil.which(name):
        yield Path(on_path)
    for folder, pattern in _FOLDERS:
        yield from (path for bin_dir in Path(folder).glob(pattern) if os.access(path := bin_dir / name, os.X_OK))


def _version(path: Path) -> Version:
    """Return major and minor of a program; 0 and 0 when it does not run."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError:
        return 0, 0
    # An unreleased version has no minor: "19devel".
    version = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", said.stdout)
    return (int(version[1]), int(version[2] or 0)) if version else (0, 0)


def _has_tls(path: Path) -> bool:
    """Return whether a client program of PostgreSQL supports TLS.

    It gets a host that does not exist. A program without TLS complains about TLS before it tries to connect.
    """
    asked: list[str | Path] = [path, "--dbname=sslmode=require host=/nonexistent dbname=none", "--no-password"]
    said = subprocess.run(
        asked, capture_output=True, encoding="utf-8", errors="replace", env=os.environ | {"LC_ALL": "C"}, check=False
    )
    return _WITHOUT_TLS not in said.stderr
