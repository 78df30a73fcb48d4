"""The service as a systemd unit: its text, and the commands that control it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from atlas_sdk.cli.service_files import ServiceFile
from atlas_sdk.cli.service_plan import ServicePlan
from atlas_sdk.config import user_file

#: The first line of every file that an installation writes.
_MARK: Final = "# Written by atlasctl service install; systemctl edit makes changes that last.\n"
_MACHINE_UNITS: Final = Path("/etc/systemd/system")
_MACHINE_SECRETS: Final = Path("/etc/atlasengine")
#: Root's server runs as another account, see `atlas_sdk._embedded.account`, and keeps its data here.
_ROOT_DATA: Final = "/var/lib/atlasengine"
#: The rights of a root service: it becomes the account of the server, gives files to it, and reads every project.
_ROOT_RIGHTS: Final = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_PTRACE"

#: Restrictions that need no namespace: every manager can set them.
_PLAIN: Final = """\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
"""
#: Restrictions that need namespaces. A user's manager may be unable to make them; see `probe`.
_SPACES: Final = """\
ProtectSystem=strict
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""
#: Options of a unit for which `systemd-run` can check that this machine has them.
_PROBED: Final = ("PrivateUsers=yes", "CapabilityBoundingSet=", *_SPACES.split())

#: The letters that an environment file escapes in quotes.
_SHELL: Final = re.compile(r'[\\"`$]')

#: The letters that begin a wildcard of glob(7).
_WILDCARD: Final = re.compile(r"[*?\[]")


def word(text: str, *, in_command: bool = False) -> str:
    r"""Return a text as one word of a unit: in quotes, with escapes for \, ", and systemd's specifiers (%).

    In a command line, systemd also replaces variables ($). See "Quoting" in systemd.syntax(7).
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if in_command else escaped}"'


def secret_line(name: str, value: str) -> str:
    r"""Return a line of an environment file (systemd.exec(5)): in quotes, with escapes for the four letters \ " ` $."""
    escaped = _SHELL.sub(r"\\\g<0>", value)
    return f'{name}="{escaped}"\n'


class SystemdUnit:
    """The unit of a service. It belongs to the calling user, or to the machine if the plan names an account."""

    def __init__(self, plan: ServicePlan, *, has_namespaces: bool = True) -> None:
        self.plan = plan
        #: False if this machine lets no user's manager make namespaces: the unit then has fewer restrictions.
        self.has_namespaces = has_namespaces

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return f"{self.plan.name}.service"

    @property
    def is_user_unit(self) -> bool:
        """True if the unit belongs to a user's manager."""
        return self.plan.account is None

    @property
    def path(self) -> Path:
        """The file of the unit."""
        if self.is_user_unit:
            return user_file().parent.parent / "systemd/user" / self.unit
        return _MACHINE_UNITS / self.unit

    @property
    def secrets(self) -> Path:
        """The file of the DSN, which may hold a password."""
        return (user_file().parent if self.is_user_unit else _MACHINE_SECRETS) / f"{self.plan.name}.env"

    def files(self) -> list[ServiceFile]:
        """Return the files of the service: the unit, and if a DSN was given, a private file with it."""
        found = [_file(self.path, self.text(), 0o644)]
        if self.plan.dsn is not None:
            secret = _MARK + secret_line("ATLAS_DATABASE_URL", self.plan.dsn)
            found.append(_file(self.secrets, secret, 0o600))
        return found

    def stale_files(self) -> list[ServiceFile]:
        """Return the files that an earlier installation with a DSN may have written and this one does not need."""
        return [] if self.plan.dsn is not None else [_file(self.secrets, "", 0o600)]

    def text(self) -> str:
        """Return the text of the unit."""
        return _MARK + "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        plan = self.plan
        # StartLimitIntervalSec=0: another watcher of this home may run for days, and then this one takes over.
        yield f"[Unit]\nDescription=AtlasEngine watcher ({_plain(str(plan.home))})\nStartLimitIntervalSec=0\n"
        if not self.is_user_unit:
            yield "After=network.target postgresql.service\n"
        yield "\n[Service]\nType=notify\nNotifyAccess=main\n"
        yield f"ExecStart={' '.join(word(one, in_command=True) for one in plan.program)}\n"
        yield "ExecReload=/bin/kill -HUP $MAINPID\n"
        if plan.account is not None:
            yield f"User={_plain(plan.account)}\n"
        for name, value in sorted(plan.variables.items()):
            yield f"Environment={word(f'{name}={value}')}\n"
        if plan.dsn is not None:
            yield f"EnvironmentFile={_plain(_literal(str(self.secrets)))}\n"
        yield "WatchdogSec=30\nTimeoutStartSec=90\nTimeoutStopSec=30\nRestart=always\nRestartSec=5\n"
        # Exit code 2: a person has to correct the settings.
        yield "RestartPreventExitStatus=2\n"
        # The embedded server may serve other programs, and ends by itself after its last one.
        yield "KillMode=process\nOOMPolicy=continue\n"
        yield from self._restrictions()
        yield f"\n[Install]\nWantedBy={'default' if self.is_user_unit else 'multi-user'}.target\n"

    def _restrictions(self) -> Iterator[str]:
        yield "\n" + _PLAIN
        yield f"RestrictAddressFamilies=AF_UNIX{' AF_INET AF_INET6' if self.plan.has_network else ''}\n"
        if self.plan.account == "root":
            yield "SystemCallFilter=@system-service\nSystemCallFilter=~@clock @module @raw-io @reboot @swap\n"
            yield f"CapabilityBoundingSet={_ROOT_RIGHTS}\n{_SPACES}"
        else:
            yield "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n"
            if not self.has_namespaces:
                return
            yield f"PrivateUsers=yes\nCapabilityBoundingSet=\n{_SPACES}"
        if not self.is_user_unit:
            # A user's manager cannot make device nodes on every machine.
            yield "PrivateDevices=yes\n"
        # The projects stay readable, and nothing in them can be written. /tmp and %t: sockets of the embedded server.
        writable = [word(str(self.plan.home)), "-/tmp", "-%t" if self.is_user_unit else f"-{_ROOT_DATA}"]
        yield f"ReadWritePaths={' '.join(writable)}\n"

    # Commands, each a fixed list of arguments.

    @property
    def systemctl(self) -> tuple[str, ...]:
        """The first words of every command to the manager."""
        return ("systemctl", "--user" if self.is_user_unit else "--system")

    def probe(self) -> tuple[str, ...]:
        """Return the command that succeeds if the manager can apply the restrictions that need namespaces."""
        options = [part for option in _PROBED for part in ("-p", option)]
        scope = "--user" if self.is_user_unit else "--system"
        return ("systemd-run", scope, "--quiet", "--wait", "--collect", *options, "true")

    def commands(self, action: str) -> list[tuple[str, ...]]:
        """Return the commands of an action: install, refresh, uninstall, start, stop or restart."""
        systemctl = self.systemctl
        return {
            "install": [(*systemctl, "daemon-reload"), (*systemctl, "enable", "--now", self.unit)],
            "refresh": [
                (*systemctl, "daemon-reload"),
                (*systemctl, "enable", self.unit),
                (*systemctl, "restart", self.unit),
            ],
            "uninstall": [(*systemctl, "disable", "--now", self.unit)],
            "forget": [(*systemctl, "daemon-reload")],
            "start": [(*systemctl, "start", self.unit)],
            "stop": [(*systemctl, "stop", self.unit)],
            "restart": [(*systemctl, "restart", self.unit)],
        }[action]

    def status_command(self) -> tuple[str, ...]:
        """Return the command that prints the state as lines NAME=VALUE."""
        names = "LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,Result,StatusText"
        return (*self.systemctl, "show", self.unit, "--no-pager", f"--property={names}")

    def logs_command(self, *, lines: int, follow: bool) -> tuple[str, ...]:
        """Return the command that prints the log."""
        scope = "--user" if self.is_user_unit else "--system"
        rest = ("--follow",) if follow else ()
        return ("journalctl", scope, "--unit", self.unit, "--no-pager", "--lines", str(lines), *rest)

    def environment(self) -> dict[str, str]:
        """Return the environment of the commands. A shell of `su` or cron lacks the address of the user's manager."""
        found = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
        folder = Path(f"/run/user/{os.getuid()}")
        if self.is_user_unit and not found.get("XDG_RUNTIME_DIR") and folder.is_dir():
            found["XDG_RUNTIME_DIR"] = str(folder)
        return found


def _plain(text: str) -> str:
    """Return a text for a setting without quotes, such as a description: only specifiers are escaped.

    The text must not end the line: a backslash at the end of a line would join the next one to it.
    """
    return text.replace("%", "%%")


def _literal(path: str) -> str:
    r"""Return the glob(7) that matches a path and nothing else, because EnvironmentFile= takes a glob."""
    return _WILDCARD.sub(r"[\g<0>]", path.replace("\\", "\\\\"))


def _file(path: Path, text: str, mode: int) -> ServiceFile:
    mark = _MARK.encode()
    return ServiceFile(path=path, content=text.encode(), mode=mode, is_ours=lambda found: found.startswith(mark))
