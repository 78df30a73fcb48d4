"""`atlasctl service`: run the watcher as a service of the operating system."""

import shlex
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from atlas_sdk.cli.command import command_group
from atlas_sdk.cli.failures import FAILED, NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk.cli.service_manager import Service, ServiceState
    from watcher.status import Status

F = TypeVar("F", bound=Callable[..., Any])


@command_group
def service() -> None:
    """Run the watcher as a service: it starts by itself, and again after a crash.

    On Linux the service is a systemd unit of yours, on macOS a launchd agent. For root, and with --system, it is a
    service of the machine that runs as one account. `--print` shows what a command would do, and does nothing.
    """


def _options(command: F) -> F:
    """Add the options of every command of the group."""
    shows = click.option("--print", "shows", is_flag=True, help="Print the unit or the commands, and change nothing.")
    system = click.option("--system", is_flag=True, help="A service of the machine, not of your login; needs root.")
    account = click.option(
        "--run-as",
        "account",
        metavar="NAME",
        help="With --system: the account that owns the home.  [default: who called sudo]",
    )
    return shows(system(account(command)))


@service.command(
    examples=(
        "atlasctl service install",
        "atlasctl service install --print",
        "atlasctl service install --system --run-as ada",
        "atlasctl service install --dsn postgresql://ada@db.example/atlas",
    )
)
@_options
@click.option("--metrics", "metrics_port", metavar="PORT", type=click.IntRange(1, 65_535), help="Serve metrics there.")
@pass_run_anywhere
def install(run: Invocation, *, shows: bool, system: bool, account: str | None, metrics_port: int | None) -> None:
    """Install and start the service, or bring it up to date.

    The home (ATLAS_HOME, --home) and the database (--dsn, ATLAS_DATABASE_URL) of this call become those of the service.
    A DSN goes into a file that only its owner can read. A second call changes nothing. The unit lets the watcher read
    the projects and write to its home, and to nothing else.
    """
    from atlas_sdk.cli.service_install import install as set_up

    found = _service(run, system=system, account=account, metrics_port=metrics_port)
    if shows:
        _print_unit(run, found)
        return
    done = set_up(found)
    from atlas_sdk.cli.service_manager import lingers, login, state_of

    state = state_of(found)
    if run.out.json:
        run.out.record({"changed": bool(done.written), **_fields(found, state)})
        return
    for path in done.written:
        run.out.line(f"wrote {printable(str(path))}")
    run.out.line(f"{found.unit} {'is up to date and' if not done.written else 'is installed and'} {state.state}")
    if not done.has_namespaces:
        run.out.warn("the systemd of this login can make no namespaces: the service runs with fewer restrictions")
    watcher = _watcher(found)
    if watcher is not None and state.pid is not None and watcher.pid not in {0, state.pid}:
        run.out.warn(f"another watcher of this home runs, process {watcher.pid}; the service takes over when it ends")
    if lingers(found) is False:
        run.out.note(
            "It starts when you log in and ends when you log out. To run it always: loginctl enable-linger "
            f"{shlex.quote(login())}"
        )


@service.command(examples=("atlasctl service uninstall", "atlasctl service uninstall --print"))
@_options
@pass_run_anywhere
def uninstall(run: Invocation, *, shows: bool, system: bool, account: str | None) -> None:
    """Stop the service, and remove what the installation wrote.

    The home, with the database and every version in it, stays. So does a unit that `service install` did not write.
    """
    from atlas_sdk.cli.service_install import uninstall as take_down

    found = _service(run, system=system, account=account)
    if shows:
        for file in (*found.files(), *found.stale_files()):
            if file.path.exists():
                run.out.line(f"rm {shlex.quote(str(file.path))}")
        _print_commands(run, found, "uninstall", "forget")
        return
    removed = take_down(found)
    shown = [printable(str(path)) for path in removed]
    run.out.result(
        {"removed": [str(path) for path in removed]},
        "\n".join(f"removed {path}" for path in shown) or f"{found.unit} is not installed",
    )


def _action(action: str, sentence: str, details: str) -> None:
    """Add a command that gives one order to the manager."""

    @service.command(name=action, help=f"{sentence}\n\n{details}", examples=(f"atlasctl service {action}",))
    @_options
    @pass_run_anywhere
    def command(run: Invocation, *, shows: bool, system: bool, account: str | None) -> None:
        from atlas_sdk.cli.service_install import order

        found = _service(run, system=system, account=account)
        if shows:
            _print_commands(run, found, action)
            return
        state = order(found, action)
        run.out.result(_fields(found, state), f"{found.unit} is {state.state}")


_action("start", "Start the installed service.", "Waits until every project is watched, or the database is away.")
_action("stop", "Stop the service; it starts again at the next login.", "It first stores what is left.")
_action(
    "restart", "Stop the service and start it again.", "It first stores what is left. Does nothing to the database."
)


@service.command(examples=("atlasctl service status", "atlasctl service status --json"))
@_options
@pass_run_anywhere
def status(run: Invocation, *, shows: bool, system: bool, account: str | None) -> int:
    """Show whether the service is installed, runs, and survives a logout.

    Exits with 6 when no watcher runs for this home, by the service or by hand.
    """
    from atlas_sdk.cli.service_manager import by_hand, lingers, login, missing, state_of

    found = _service(run, system=system, account=account)
    if shows:
        run.out.line(shlex.join(found.status_command()))
        return 0
    watcher = _watcher(found)
    reason = missing(found)
    state = None if reason is not None else state_of(found)
    code = 0 if (state is not None and state.is_running) or watcher is not None else NOT_PROTECTED
    linger = None if state is None else lingers(found)
    if run.out.json:
        run.out.record(
            {
                "problem": reason,
                **_fields(found, state),
                "linger": linger,
                "watcher": None if watcher is None else {"pid": watcher.pid, "ready": watcher.ready},
            }
        )
        return code
    rows = _rows(found, state) if state is not None else [("service", f"none: {reason}")]
    if watcher is not None:
        rows.append(("watcher", f"running since {run.out.when(watcher.started_at)}, process {watcher.pid}"))
    else:
        rows.append(("watcher", "not running"))
    if linger is not None:
        rows.append(("linger", "yes: it runs without a login" if linger else "no: it ends when you log out"))
    run.out.table(rows, styles=("bold", ""))
    if linger is False:
        run.out.note(f"To run it without a login: loginctl enable-linger {shlex.quote(login())}")
    if reason is not None and watcher is None:
        run.out.note("Run the watcher by hand:")
        for line in by_hand(found.plan):
            run.out.note(f"  {line}")
    elif state is not None and not state.is_installed:
        run.out.note("atlasctl service install installs it")
    return code


@service.command(examples=("atlasctl service logs", "atlasctl service logs --lines 200 --follow"))
@_options
@click.option("--lines", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines, until interrupted.")
@pass_run_anywhere
def logs(run: Invocation, *, shows: bool, system: bool, account: str | None, lines: int, follow: bool) -> int:
    """Print the log of the service.

    On Linux it is in the journal (journalctl), on macOS in the home. --json does not change the lines.
    """
    found = _service(run, system=system, account=account)
    command = found.logs_command(lines=lines, follow=follow)
    if shows:
        run.out.line(shlex.join(command))
        return 0
    try:
        code = subprocess.run(command, env=found.environment(), check=False).returncode
    except OSError as exc:
        raise click.ClickException(f"{command[0]} cannot be run: {(exc.strerror or str(exc)).lower()}") from exc
    return 0 if code == 0 else FAILED


def _service(run: Invocation, *, system: bool, account: str | None, metrics_port: int | None = None) -> "Service":
    from atlas_sdk.cli import service_plan
    from atlas_sdk.cli.service_manager import service_of

    system = system or service_plan.is_root()
    if account is not None and not system:
        raise click.UsageError("--run-as is for a service of the machine: give --system too")
    return service_of(service_plan.plan_of(run, system=system, account=account, metrics_port=metrics_port))


def _watcher(found: "Service") -> "Status | None":
    from watcher.status import read_status

    return read_status(found.plan.home)


def _print_unit(run: Invocation, found: "Service") -> None:
    from attrs import evolve

    from atlas_sdk.cli.service_manager import missing, service_of
    from atlas_sdk.dsn import masked

    plan = found.plan
    if run.out.json:
        run.out.record({"file": str(found.path), "unit": found.unit, "commands": found.commands("install")})
        return
    # The list of launchd holds the DSN itself.
    shown = found if plan.dsn is None else service_of(evolve(plan, dsn=masked(plan.dsn)))
    run.out.line(shown.text().rstrip("\n"))
    reason = missing(found)
    if reason is not None:
        run.out.note(f"# {reason}: atlasctl service install would refuse")
    for file in found.files():
        run.out.note(f"# {printable(str(file.path))}, mode {file.mode:04o}")
    for command in found.commands("install"):
        run.out.note(f"# {shlex.join(command)}")


def _print_commands(run: Invocation, found: "Service", *actions: str) -> None:
    for action in actions:
        for command in found.commands(action):
            run.out.line(shlex.join(command))


def _fields(found: "Service", state: "ServiceState | None") -> dict[str, Any]:
    from atlas_sdk.cli.json_output import fields_of

    names = "installed enabled state pid restarts result status"
    of_state = (
        dict.fromkeys(names.split())
        if state is None
        else fields_of(
            state,
            names,
            installed=state.is_installed,
            enabled=state.is_enabled,
            status=state.text,
        )
    )
    scope = "user" if found.is_user_unit else "machine"
    return {"unit": found.unit, "scope": scope, "file": str(found.path), **of_state}


def _rows(found: "Service", state: "ServiceState") -> list[tuple[str, str]]:
    process = "" if state.pid is None else f", process {state.pid}"
    starts = {True: "; starts by itself", False: "; does not start by itself", None: ""}[state.is_enabled]
    known = f"{state.state}{process}{starts}" if state.is_installed else "not installed"
    rows = [("service", known), ("unit", printable(str(found.path)))]
    if state.text is not None and state.is_running:
        rows.append(("says", state.text))
    if state.restarts and state.is_installed:
        rows.append(("restarts", str(state.restarts)))
    if state.result is not None:
        rows.append(("last end", state.result))
    if state.is_installed and not all(file.is_current for file in found.files()):
        rows.append(("note", "the unit is not what atlasctl service install would write now"))
    return rows
