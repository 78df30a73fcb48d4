"""Install, remove and control the service, and offer it in `atlasctl init`."""

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from atlas_sdk.cli import service_plan
from atlas_sdk.cli.service_manager import (
    Service,
    ServiceState,
    by_hand,
    missing,
    run,
    service_of,
    state_of,
    succeeds,
)
from atlas_sdk.cli.service_systemd import SystemdUnit
from atlas_sdk.errors import AtlasError, FileProblem, NotPermitted
from atlas_sdk.home import prepare_home
from atlas_sdk.text import named

if TYPE_CHECKING:
    from atlas_sdk.cli.invocation import Invocation


@frozen(kw_only=True)
class Installation:
    """The result of an installation."""

    #: The files that were written or removed; none if the service was up to date.
    written: tuple[Path, ...]
    #: False if the machine cannot apply the restrictions that need namespaces.
    has_namespaces: bool


def install(service: Service) -> Installation:
    """Write the files of a service, and start it. A second call changes nothing. Raises ClickException, AtlasError."""
    _require(service)
    for file in (*service.files(), *service.stale_files()):
        file.check()
    _prepare_home(service)
    has_namespaces = True
    probe = service.probe()
    if probe is not None and isinstance(service, SystemdUnit):
        has_namespaces = service.has_namespaces = succeeds(service, probe)
    written = [file.path for file in service.files() if file.write()]
    written += [file.path for file in service.stale_files() if file.remove()]
    is_old = bool(written) and state_of(service).is_running
    run(service, service.commands("refresh" if is_old else "install"))
    return Installation(written=tuple(written), has_namespaces=has_namespaces)


def uninstall(service: Service) -> list[Path]:
    """Stop a service and remove its files; return their paths. Works also where the manager does not run."""
    files = [*service.files(), *service.stale_files()]
    for file in files:
        file.check()
    is_there = any(file.path.exists() for file in files)
    if not is_there:
        return []
    _require_rights(service)
    runs = missing(service) is None
    if runs and state_of(service).is_installed:
        run(service, service.commands("uninstall"))
    removed = [file.path for file in files if file.remove()]
    if runs:
        run(service, service.commands("forget"))
    return removed


def order(service: Service, action: str) -> ServiceState:
    """Start, stop or restart a service; return its state."""
    _require(service)
    if not service.path.exists():
        raise FileProblem(f"{service.unit} is not installed; run: atlasctl service install", path=str(service.path))
    run(service, service.commands(action))
    return state_of(service)


def _require(service: Service) -> None:
    """Raise an error that says what to do if this call can install nothing here."""
    reason = missing(service)
    if reason is not None:
        ways = "; ".join(" ".join(line.split()) for line in by_hand(service.plan))
        raise click.ClickException(f"{reason}, so no service can be installed. Run the watcher by hand: {ways}")
    _require_rights(service)


def _require_rights(service: Service) -> None:
    if not service.is_user_unit and not service_plan.is_root():
        raise NotPermitted(
            "a service of the machine needs root: run the command with sudo, or without --system for a service of "
            "your own"
        )


def _prepare_home(service: Service) -> None:
    """Make the home, which must exist before the unit makes everything else read-only. Raises FileProblem."""
    home, account = service.plan.home, service.plan.account
    if account is None or pwd.getpwnam(account).pw_uid == os.geteuid():
        prepare_home(home)
        (home / "watcher").mkdir(mode=0o700, exist_ok=True)
    elif not home.is_dir():
        shown = named(str(home))
        raise FileProblem(
            f"the home {shown} of {account} does not exist; first run, as {account}: atlasctl init", path=str(home)
        )
    elif home.stat().st_uid != pwd.getpwnam(account).pw_uid:
        raise FileProblem(
            f"the home {named(str(home))} does not belong to {account}: give its owner with --run-as", path=str(home)
        )


def offer(invocation: "Invocation", *, wanted: bool | None) -> None:
    """Install the service for `atlasctl init`: if `wanted`, or if a person at a terminal agrees.

    A failure is a warning, because the folder is registered and captured already.
    """
    from watcher.status import read_status

    if wanted is False:
        return
    if wanted is None and read_status(invocation.settings.folder) is not None:
        return
    out = invocation.out
    try:
        service = service_of(service_plan.plan_of(invocation, system=service_plan.is_root()))
        if wanted is None:
            if not invocation.interactive or missing(service) is not None:
                return
            if not click.confirm("Start the watcher now and at every login, as a service?", default=True, err=True):
                return
        install(service)
    except (AtlasError, click.ClickException) as problem:
        sentence = problem.format_message() if isinstance(problem, click.ClickException) else str(problem)
        out.warn(f"the service is not installed: {sentence}")
        return
    out.note(f"{service.unit} is installed and runs; atlasctl service status shows it")
