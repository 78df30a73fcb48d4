"""A real systemd runs the service, as the manager of an account that is not root.

The manager lives in control groups and a mount namespace of its own, so the test touches no other process.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
NOBODY = 65534
UNIT = "atlas-watcher.service"
_GROUPS = [path for path in map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")) if path.is_dir()]
if not _GROUPS and Path("/sys/fs/cgroup/cgroup.procs").exists():
    _GROUPS = [Path("/sys/fs/cgroup")]
_SYSTEMD = next(
    (path for path in map(Path, ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")) if path.exists()), None
)


def _missing() -> str | None:
    """Return why systemd cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "the test is not run by root"
    if _SYSTEMD is None or shutil.which("nsenter") is None:
        return "systemd or util-linux is not installed"
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, check=False)
    if tried.returncode != 0:
        return "this machine gives no mount namespace"
    if not _GROUPS or not all(os.access(group / "cgroup.procs", os.W_OK) for group in _GROUPS):
        return "this machine gives no control groups"
    return None


WHY = _missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=f"NO REAL SYSTEMD: {WHY}; the units are only checked by fakes")

#: Make the folders that the program needs reachable for every account, below a /run that looks like a booted systemd.
_SCRIPT = """
set -e
for group in {groups}; do echo $$ >"$group/cgroup.procs"; done
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/systemd/unit-root /run/user/{uid} /run/keep
chown {uid}:{uid} /run/user/{uid}
chmod 700 /run/user/{uid}
{binds}
exec setpriv --reuid={uid} --regid={uid} --clear-groups env -i {environment} {systemd} --user
"""


def _binds() -> str:
    """Return the commands that open the way to the checkout, its environment and the interpreter."""
    lines = []
    for number, needed in enumerate(map(Path, (sys.base_prefix, sys.prefix, ROOT))):
        way = [one for one in (*reversed(needed.parents), needed) if not one.stat().st_mode & 0o001]
        if way:
            keep, target = f"/run/keep/{number}", shlex.quote(str(needed))
            lines += [f"mkdir -p {keep}", f"mount --bind {target} {keep}"]
            lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(way[0]))}"]
            lines += [f"mkdir -p {target}", f"mount --bind {keep} {target}"]
    return "\n".join(lines)


class Manager:
    """The systemd of an account, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.variables = [f"HOME={home}", f"XDG_RUNTIME_DIR=/run/user/{NOBODY}", f"PATH={os.environ['PATH']}"]
        self.groups = [group / f"atlas-test-{os.getpid()}" for group in _GROUPS]
        for group in self.groups:
            group.mkdir()
            for path in (group, *group.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        environment = shlex.join([*self.variables, "SYSTEMD_LOG_TARGET=null"])
        script = _SCRIPT.format(
            uid=NOBODY,
            groups=shlex.join(map(str, self.groups)),
            binds=_binds(),
            environment=environment,
            systemd=_SYSTEMD,
        )
        self.process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}"]
        line = [*inside, "--clear-groups", "env", "-i", *self.variables, *command]
        return subprocess.run(line, capture_output=True, text=True, cwd="/", check=False)

    def atlasctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(Path(sys.executable).with_name("atlasctl")), *arguments)

    def shows(self, name: str) -> str:
        return self.run("systemctl", "--user", "show", UNIT, "--value", f"--property={name}").stdout.strip()

    def end(self) -> None:
        self.run("systemctl", "--user", "exit")
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            for group in self.groups:
                # A process of the service may need a moment to end.
                until(lambda group=group: _removed(group), "its control groups are empty")


def _removed(group: Path) -> bool:
    for folder in sorted((path for path in (group, *group.rglob("*")) if path.is_dir()), reverse=True):
        try:
            folder.rmdir()
        except OSError:
            return False
    return True


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def manager() -> Iterator[Manager]:
    # Other accounts cannot enter the folders of pytest, and the unit may write to all of /tmp.
    home = Path("/var/tmp") / f"atlas-test-systemd-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    found = Manager(home)
    try:
        until(lambda: found.run("systemctl", "--user", "is-system-running").stdout.strip() == "running", "it runs")
        yield found
    finally:
        found.end()
        shutil.rmtree(home)


def test_systemd_runs_the_service_confines_it_and_restarts_it(manager: Manager) -> None:
    # Without a database the service works too: it has the journal.
    done = manager.atlasctl("service", "install", "--dsn", "postgresql:///atlas?host=/nonexistent")
    assert (done.returncode, done.stderr.count("warning")) == (0, 0), done.stderr
    assert manager.shows("ActiveState") == "active"
    assert "cannot reach PostgreSQL" in manager.shows("StatusText")
    process = Path("/proc") / manager.shows("MainPID")
    facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert (facts["NoNewPrivs"], facts["Seccomp"], int(facts["CapBnd"], 16)) == ("1", "2", 0)
    mounts = {line.split()[4]: line.split()[5] for line in (process / "mountinfo").read_text().splitlines()}
    home = str(manager.home / ".local/share/atlasengine")
    assert mounts["/"].startswith("ro,")
    assert mounts[home].startswith("rw,")
    assert (manager.home / ".config/atlasengine/atlas-watcher.env").stat().st_mode & 0o777 == 0o600

    extra = manager.home / f".config/systemd/user/{UNIT}.d"
    extra.mkdir()
    (extra / "fast.conf").write_text("[Service]\nRestartSec=50ms\nWatchdogSec=1\n")
    manager.run("systemctl", "--user", "daemon-reload")
    assert manager.atlasctl("service", "restart").returncode == 0
    # A crash, and a process that hangs: it sends no message to the watchdog.
    for number, restarts in ((signal.SIGKILL, "1"), (signal.SIGSTOP, "2")):
        os.kill(int(manager.shows("MainPID")), number)
        until(lambda restarts=restarts: manager.shows("NRestarts") == restarts, "systemd restarts it")
        until(lambda: manager.shows("ActiveState") == "active", "it is active again")

    assert manager.atlasctl("service", "status").returncode == 0
    assert manager.atlasctl("service", "uninstall").returncode == 0
    left = [path for path in (manager.home / ".config").rglob("*") if not path.is_dir()]
    assert left == [extra / "fast.conf"], "a drop-in is the user's own"
    assert manager.shows("ActiveState") == "inactive"
