"""Find the OS account that runs the server's processes.

PostgreSQL refuses to run as root. So root's server (containers, CI) runs as a separate system account. The servers of
other users run as those users.
"""

import logging
import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from atlas_sdk._embedded.locks import polling
from atlas_sdk.errors import EmbeddedServerFailed

__all__ = ["SYSTEM_ACCOUNT", "Account", "find_account", "launch"]

_log = logging.getLogger(__name__)

SYSTEM_ACCOUNT = "atlasengine"

#: The server's environment. It takes nothing from the caller's environment, because PGDATA, PGPORT or LD_LIBRARY_PATH
#: would affect the server.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@frozen(kw_only=True)
class Account:
    """The OS account that owns the data and runs the server."""

    name: str
    uid: int
    gid: int
    #: The OS user who may connect; it differs from `name` for root only.
    client: str

    @property
    def is_other(self) -> bool:
        """True when the caller is root and must become this account to run the server."""
        return self.name != self.client

    def run(
        self, *argv: str | Path, stdin: str = "", timeout_s: float, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this account; return its output and exit code. A failure of the program raises nothing."""
        return subprocess.run(
            argv,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            pass_fds=pass_fds,
            cwd="/",
            env=_ENVIRONMENT,
            check=False,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )

    def give(self, path: Path) -> None:
        """Make this account the owner of a file or folder that we created."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def launch(*argv: str | Path, output: int, account: Account | None = None, pass_fds: Sequence[int] = ()) -> None:
    """Start a program that outlives this process, in its own session; it writes stdout and stderr to `output`.

    A shell starts the program and exits at once, so init becomes the parent of the program and reaps a killed
    postmaster. As our child, a killed postmaster would be a zombie, which looks alive until this process ends. The
    shell does not interpret the arguments.
    """
    other = account is not None and account.is_other
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", *argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=pass_fds,
        start_new_session=True,
        cwd="/",
        env=_ENVIRONMENT,
        check=True,
        user=account.uid if account is not None and other else None,
        group=account.gid if account is not None and other else None,
        extra_groups=[] if other else None,
    )


def find_account() -> Account:
    """Return the account that runs the server for this process; for root, create it if it is missing."""
    uid = os.geteuid()
    try:
        caller = pwd.getpwuid(uid)
    except KeyError:
        # Both initdb and peer authentication need a user name.
        raise EmbeddedServerFailed(
            f"OS user id {uid} has no name on this machine, which PostgreSQL needs; add it to /etc/passwd, "
            "or give a server with --dsn or ATLAS_DATABASE_URL"
        ) from None
    runner = caller if uid != 0 else (_system_account() or _make_system_account())
    return Account(name=runner.pw_name, uid=runner.pw_uid, gid=runner.pw_gid, client=caller.pw_name)


def _system_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_ACCOUNT)
    except KeyError:
        return None


def _make_system_account() -> pwd.struct_passwd:
    command = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_ACCOUNT)
    try:
        made = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=_ENVIRONMENT, timeout=30, check=False
        )
        problem = made.stderr.strip() or f"useradd exits with {made.returncode}"
    except (OSError, subprocess.TimeoutExpired) as exc:
        problem = str(exc)
    # Look for the account even after a failure: another process may have created it at the same time.
    account = next((found for _ in polling(2.0) if (found := _system_account())), None)
    if account is None:
        raise EmbeddedServerFailed(
            f"PostgreSQL does not run as root and the account {SYSTEM_ACCOUNT} could not be created ({problem}); "
            f"run as root: {' '.join(command)}, or work as another user, or give a server with --dsn or "
            "ATLAS_DATABASE_URL"
        )
    _log.info("Created the system account %s, because PostgreSQL does not run as root", SYSTEM_ACCOUNT)
    return account
