"""The service as a launchd job of macOS: its property list, and the commands that control it."""

import os
import plistlib
from pathlib import Path
from typing import Any, Final

from atlas_sdk.cli.service_files import ServiceFile
from atlas_sdk.cli.service_plan import ServicePlan

_MACHINE_JOBS: Final = Path("/Library/LaunchDaemons")
_UMASK: Final = 0o077


class LaunchdJob:
    """The job of a service. It belongs to the calling user, or to the machine if the plan names an account."""

    def __init__(self, plan: ServicePlan) -> None:
        self.plan = plan

    @property
    def unit(self) -> str:
        """The label of the job."""
        return self.plan.name

    @property
    def is_user_unit(self) -> bool:
        """True if the job belongs to a user."""
        return self.plan.account is None

    @property
    def path(self) -> Path:
        """The file of the job."""
        folder = Path.home() / "Library/LaunchAgents" if self.is_user_unit else _MACHINE_JOBS
        return folder / f"{self.plan.name}.plist"

    @property
    def log(self) -> Path:
        """The file that launchd writes the log to; its folder is the watcher's, which nobody else can enter."""
        return self.plan.home / "watcher" / "service.log"

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}" if self.is_user_unit else "system"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{self.plan.name}"

    def files(self) -> list[ServiceFile]:
        """Return the file of the job. Only its owner may read it, because the DSN in it may hold a password."""
        return [ServiceFile(path=self.path, content=self.text().encode(), mode=0o600, is_ours=self._is_ours)]

    def stale_files(self) -> list[ServiceFile]:
        """Return (): an installation never writes another file."""
        return []

    def _is_ours(self, content: bytes) -> bool:
        try:
            found = plistlib.loads(content)
        except (plistlib.InvalidFileException, ValueError):
            return False
        program = found.get("ProgramArguments", []) if isinstance(found, dict) else []
        return isinstance(program, list) and program[1:4] == list(self.plan.program[1:4])

    def text(self) -> str:
        """Return the property list."""
        plan = self.plan
        variables = dict(plan.variables)
        if plan.dsn is not None:
            variables["ATLAS_DATABASE_URL"] = plan.dsn
        job: dict[str, Any] = {
            "Label": plan.name,
            "ProgramArguments": list(plan.program),
            "EnvironmentVariables": variables,
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 5,
            "ProcessType": "Background",
            "ExitTimeOut": 30,
            "Umask": _UMASK,
            "WorkingDirectory": "/",
            "StandardErrorPath": str(self.log),
            "StandardOutPath": str(self.log),
            # The embedded server may serve other programs, and ends by itself after its last one.
            "AbandonProcessGroup": True,
        }
        if plan.account is not None:
            job["UserName"] = plan.account
        return plistlib.dumps(job).decode()

    def probe(self) -> None:
        """Return None: launchd has no restrictions to check."""

    def commands(self, action: str) -> list[tuple[str, ...]]:
        """Return the commands of an action: install, refresh, uninstall, start, stop or restart."""
        load = ("launchctl", "bootstrap", self._domain, str(self.path))
        unload = ("launchctl", "bootout", self._target)
        found: dict[str, list[tuple[str, ...]]] = {
            "install": [("launchctl", "enable", self._target), load],
            "refresh": [unload, ("launchctl", "enable", self._target), load],
            "uninstall": [unload],
            "forget": [],
            # launchd starts a job that it keeps alive again. So a stopped job is one that is not loaded.
            "start": [load],
            "stop": [unload],
            "restart": [("launchctl", "kickstart", "-k", self._target)],
        }
        return found[action]

    def status_command(self) -> tuple[str, ...]:
        """Return the command that prints the state."""
        return ("launchctl", "print", self._target)

    def logs_command(self, *, lines: int, follow: bool) -> tuple[str, ...]:
        """Return the command that prints the log."""
        return ("tail", "-n", str(lines), *(("-F",) if follow else ()), str(self.log))

    def environment(self) -> dict[str, str]:
        """Return the environment of the commands."""
        return dict(os.environ)
