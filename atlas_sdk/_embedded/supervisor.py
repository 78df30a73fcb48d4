"""Stop the server after its last user. This runs as a separate process, with the standard library only.

Every user holds a shared lock on `users.lock`, and the kernel drops the lock however the user ends. This process waits
for the exclusive lock. When it has that lock, nobody uses the server. It keeps the lock while the server stops, so new
users wait and then start the server again.

The process uses the open folder and not its path, so it also serves a home that is moved.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: The longest pause between two checks while sessions by hand or `keep_for` keep the server running.
_LONGEST_PAUSE_S = 30.0
#: Seconds after which a second supervisor ends; see `_alone`.
_RIVAL_S = 1
#: Seconds between two looks at a server that is stopping.
_REMOVE_PAUSE_S = 0.02
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


def main(
    run_dir: Path, data_dir: Path, bin_dir: Path, linger_s: float, account_name: str, account: Mapping[str, Any]
) -> None:
    """Wait until nobody uses the server, then stop the server and end."""
    locks = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(data_dir.parent)
    data_dir = Path(data_dir.name)
    # Open this lock first. The kernel closes the files of a killed process in order, so a new user who then gets
    # `users` sees that there is no supervisor.
    place = _alone(run_dir / "supervisor.lock")
    users = os.open(run_dir / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    is_temporary = (run_dir / "temporary").exists()
    pause_s = linger_s
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        # Nobody uses the server. Unlock and give new users some time, because a new start takes longer than this wait.
        last_use_ns = os.fstat(users).st_mtime_ns
        fcntl.flock(users, fcntl.LOCK_UN)
        time.sleep(pause_s)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause_s = linger_s
            continue
        if os.fstat(users).st_mtime_ns != last_use_ns:
            # A user came and left in between: start the wait again.
            fcntl.flock(users, fcntl.LOCK_UN)
            pause_s = linger_s
            continue
        if is_temporary:
            break
        kept_s = kept_until("keep-until", dir_fd=locks) - time.time()
        if kept_s > 0:
            pause_s = min(kept_s, _LONGEST_PAUSE_S)
        elif _sessions(data_dir, bin_dir, account_name):
            pause_s = min(max(2 * pause_s, 0.1), _LONGEST_PAUSE_S)
        else:
            break
    if is_temporary:
        _remove(run_dir.parent, data_dir, bin_dir, account, locks)
        return
    # Check that a server runs: otherwise the recorded process id may belong to another program.
    if _is_running(dir_fd=locks):
        _stop(data_dir, bin_dir, account)
        # Stop the server of a killed upgrade too.
        _stop(data_dir.with_name(data_dir.name + ".upgrade"), bin_dir, account)
    # Unlock in this order, so that the next user sees that a new supervisor is needed.
    fcntl.flock(place, fcntl.LOCK_UN)
    fcntl.flock(users, fcntl.LOCK_UN)


def _alone(lock: Path) -> int:
    """Return the lock of the supervisor, or end the process silently if another supervisor has it.

    The call tries for a moment and not just once, because a user who checks for a supervisor holds the lock briefly.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default ends the process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.alarm(_RIVAL_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    signal.alarm(0)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def kept_until(file: str | Path, *, dir_fd: int | None = None) -> float:
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd), encoding="ascii") as opened:
            return float(opened.read())
    except (OSError, ValueError):
        return 0.0


def _is_running(*, dir_fd: int) -> bool:
    """Return True if a process of the server holds its lock."""
    try:
        descriptor = os.open("server.lock", os.O_RDWR | os.O_NOFOLLOW, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _socket_dir(data_dir: Path) -> str | None:
    """Return the socket folder of this folder's server; None if there is no server, or if this is a copy."""
    try:
        text = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape")
        pid, named, _, _, folder, *_ = text.splitlines()
    except (OSError, ValueError):
        return None
    # A postmaster runs in its data directory. After a move the file still has the old path.
    for same in (named, f"/proc/{pid}/cwd"):
        try:
            if data_dir.samefile(same):
                return folder
        except OSError:
            continue
    return None


def _sessions(data_dir: Path, bin_dir: Path, account_name: str) -> bool:
    """Return True if a client is connected, such as psql; False if no server answers."""
    folder = _socket_dir(data_dir)
    if folder is None:
        return False
    if not Path(folder).exists():
        folder = os.fspath(data_dir.absolute())  # the folder was moved, with the socket in it
    environment = {"PGHOST": folder, "PGPORT": "5432", "PGUSER": "atlas", "PGCONNECT_TIMEOUT": "5", "LC_ALL": "C"}
    environment["PGREQUIREPEER"] = account_name
    command = (bin_dir / "psql", "-XAtq", "-d", "postgres", "-c", _SESSIONS)
    asked = subprocess.run(
        command, capture_output=True, encoding="ascii", errors="replace", env=environment, check=False
    )
    return asked.returncode == 0 and asked.stdout.strip() != "0"


def _remove(home: Path, data_dir: Path, bin_dir: Path, account: Mapping[str, Any], locks: int) -> None:
    """Remove a temporary home; first stop its server, without a checkpoint, because the data goes too."""
    # Repeat: initdb, or a server that has not written its process id yet, also holds the lock if its user was just
    # killed.
    while _is_running(dir_fd=locks):
        _stop(data_dir, bin_dir, account, modes=("immediate",))
        time.sleep(_REMOVE_PAUSE_S)
    import shutil  # noqa: PLC0415  # most supervisors wait for days, and never need it

    os.chdir("/")
    # A process that creates a home holds this lock while it looks for the homes of dead processes. It must not find a
    # home that is being removed.
    fcntl.flock(os.open(home.parent / "lock", os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    shutil.rmtree(home)


def _stop(
    data_dir: Path, bin_dir: Path, account: Mapping[str, Any], *, modes: Sequence[str] = ("fast", "immediate")
) -> None:
    folder = _socket_dir(data_dir)
    if folder is None:
        return
    for mode in modes:
        # Give a path relative to the working directory, which the account can enter.
        command = (bin_dir / "pg_ctl", "stop", "-s", "-D", data_dir, "-m", mode, "-t", "60")
        if subprocess.run(command, env={"LC_ALL": "C"}, check=False, **account).returncode == 0:
            break
    try:
        Path(folder).rmdir()  # succeeds only for a separate socket folder; the data directory is not empty
    except OSError:
        return


if __name__ == "__main__":
    run, data, programs, linger, name, uid, gid = sys.argv[1:]
    drop = {"user": int(uid), "group": int(gid), "extra_groups": []} if os.geteuid() == 0 else {}
    main(Path(run), Path(data), Path(programs), float(linger), name, drop)
