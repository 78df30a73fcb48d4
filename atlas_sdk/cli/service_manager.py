"""Find the service manager of this machine, and run its commands. Never through a shell."""

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from atlas_sdk.cli.service_launchd import LaunchdJob
from atlas_sdk.cli.service_plan import ServicePlan
from atlas_sdk.cli.service_systemd import SystemdUnit
from atlas_sdk.text import cut

#: This folder exists where systemd is the first process, see sd_booted(3).
BOOTED: Final = Path("/run/systemd/system")
#: Files that Docker and Podman make in every container.
_CONTAINER: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
_LETTERS: Final = 500

Service = SystemdUnit | LaunchdJob


@frozen(kw_only=True)
class ServiceState:
    """The state of a service, as its manager tells it."""

    #: True if the manager knows the service.
    is_installed: bool
    #: True if the manager starts the service by itself; None if that is unknown.
    is_enabled: bool | None = None
    #: "active", "activating", "inactive", "failed", …; "unknown" if the manager does not answer.
    state: str
    pid: int | None = None
    #: The number of automatic restarts; None if the manager does not count them.
    restarts: int | None = None
    #: The daemon's own words, from STATUS=.
    text: str | None = None
    #: The reason of the last end, if it was no clean one: "watchdog", "exit-code", "signal", …
    result: str | None = None

    @property
    def is_running(self) -> bool:
        """True if the daemon runs."""
        return self.state in {"active", "activating", "reloading", "running"}


def service_of(plan: ServicePlan) -> Service:
    """Return the service for the manager of this operating system."""
    return LaunchdJob(plan) if platform.system() == "Darwin" else SystemdUnit(plan)


def missing(service: Service) -> str | None:
    """Return why no manager runs here that could take the service; None if one does."""
    if isinstance(service, LaunchdJob):
        return None
    if not BOOTED.is_dir():
        if any(mark.exists() for mark in _CONTAINER):
            return "this is a container without systemd"
        if "microsoft" in platform.release().lower():
            return "this Linux runs under Windows without systemd"
        return "systemd does not run on this machine"
    if service.is_user_unit and not service.environment().get("XDG_RUNTIME_DIR"):
        return (
            f"the systemd of {login()} does not run; as root, loginctl enable-linger {login()} starts it, also without "
            "a login"
        )
    return None


def by_hand(plan: ServicePlan) -> list[str]:
    """Return the ways to run the watcher where no manager runs."""
    home = f"ATLAS_HOME={shlex.quote(str(plan.home))}"
    return [
        f"in the background of this login:  {home} nohup atlas-watcher >>watcher.log 2>&1 &",
        'in a container:  CMD ["atlas-watcher"]  (SIGTERM stores what is left; keep the home on a volume)',
        "under supervisord, runit or s6:  command=atlas-watcher, stopsignal=TERM, restart always",
    ]


def run(service: Service, commands: Sequence[tuple[str, ...]]) -> None:
    """Run commands of the manager in order. Raises ClickException with the manager's own words."""
    for command in commands:
        done = _call(service, command)
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split()) or f"it exits with {done.returncode}"
            raise click.ClickException(f"{' '.join(command[:3])} failed: {cut(said, _LETTERS)}")


def succeeds(service: Service, command: tuple[str, ...]) -> bool:
    """Return whether a command of the manager succeeds."""
    return _call(service, command).returncode == 0


def _call(service: Service, command: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=service.environment(),
            check=False,
        )
    except OSError as exc:
        raise click.ClickException(f"{command[0]} cannot be run: {(exc.strerror or str(exc)).lower()}") from exc


def state_of(service: Service) -> ServiceState:
    """Ask the manager for the state of a service."""
    done = _call(service, service.status_command())
    if isinstance(service, LaunchdJob):
        return _launchd_state(service, done)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode != 0 or "ActiveState" not in found:
        return ServiceState(is_installed=service.path.exists(), state="unknown")
    result = found.get("Result", "success")
    return ServiceState(
        is_installed=found.get("LoadState") not in {"not-found", "masked"},
        is_enabled=found.get("UnitFileState") == "enabled",
        state=found["ActiveState"],
        pid=_number(found.get("MainPID")) or None,
        restarts=_number(found.get("NRestarts")),
        text=found.get("StatusText") or None,
        result=None if result == "success" else result,
    )


def _launchd_state(service: LaunchdJob, done: "subprocess.CompletedProcess[str]") -> ServiceState:
    if done.returncode != 0:
        return ServiceState(is_installed=service.path.exists(), is_enabled=False, state="inactive")
    found: dict[str, Any] = dict(re.findall(r"^\s*(state|pid|runs) = (.+)$", done.stdout, re.MULTILINE))
    runs = _number(found.get("runs"))
    return ServiceState(
        is_installed=True,
        is_enabled=True,
        state=found.get("state", "unknown"),
        pid=_number(found.get("pid")),
        restarts=None if runs is None else max(0, runs - 1),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def login() -> str:
    """Return the name of this account, for commands that the user types."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def lingers(service: Service) -> bool | None:
    """Return whether the user's services run without a login; None if that is unknown or does not matter."""
    if isinstance(service, LaunchdJob) or not service.is_user_unit:
        return None
    try:
        done = _call(service, ("loginctl", "show-user", login(), "--property=Linger", "--value"))
    except click.ClickException:
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip()) if done.returncode == 0 else None
