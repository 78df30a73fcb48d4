"""`atlasctl doctor`: check that a change really reaches the database, and what would stop it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from atlas_sdk import AtlasError, DatabaseUnreachable
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import FAILED, NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of

if TYPE_CHECKING:
    from atlas_sdk.cli.canary import CanaryStep
    from atlas_sdk.provision import Finding
    from watcher.status import Status

#: The findings without which nothing is protected.
_VITAL = frozenset({"watcher", "canary"})


@click.command(cls=Command, examples=("atlasctl doctor", "atlasctl doctor --json", "atlasctl doctor --no-canary"))
@click.option("--canary/--no-canary", default=True, show_default=True, help="Send a file the whole way, and time it.")
@click.option(
    "--wait",
    "patience_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 600),
    default=15.0,
    show_default=True,
    help="The longest time for each step of the canary.",
)
@pass_run_anywhere
def doctor(run: Invocation, *, canary: bool, patience_s: float) -> int:
    """Check the whole way of a change: watcher, journal, database, and back.

    Finds what `atlasctl db doctor` finds, and looks at the watcher, its service, the kernel's limits and the journal.
    When a watcher runs, a canary file in a scratch project goes the whole way; each step is timed, and the project, its
    versions and its folder are removed. Exits with 5 if the database cannot be reached, with 6 if no watcher runs or
    the canary does not arrive, with 1 for another problem.
    """
    from atlas_sdk.cli.db_doctor import diagnose, print_finding, print_totals
    from watcher.status import read_status

    status = read_status(run.settings.folder)
    # Take the time before the database opens, which can take longer than a status is fresh.
    now = datetime.now(UTC)
    of_machine = list(_machine(run, status, now))
    diagnosis, address = diagnose(run)
    findings = [*diagnosis.findings, *of_machine]
    steps: list[CanaryStep] = []
    if canary and diagnosis.reachable and status is not None and status.is_fresh(now):
        steps = _canary(run, patience_s)
        findings += [_finding_of(step) for step in steps if step.seconds is None]
    problems = {one.name for one in findings if one.verdict in {"problem", "skipped"}}
    if run.out.json:
        run.out.record(
            {
                "ok": not problems,
                "database": diagnosis.place,
                "findings": [fields_of(one, "name verdict detail fix") for one in findings],
                "canary": [{"step": step.name, "seconds": step.seconds, "detail": step.detail} for step in steps],
            }
        )
    else:
        run.out.note(f"examining {diagnosis.place} (from {address.source}) and this machine")
        for one in findings:
            if one.name != "canary":
                print_finding(run, one)
        _print_canary(run, steps, findings)
        print_totals(run, findings)
    if not diagnosis.reachable:
        return DatabaseUnreachable.exit_code
    return NOT_PROTECTED if problems & _VITAL else FAILED if problems else 0


def _machine(run: Invocation, status: "Status | None", now: datetime) -> "Iterator[Finding]":
    from atlas_sdk.cli.machine_checks import examine_journal, examine_limits, examine_watcher

    yield from examine_watcher(status, now)
    yield _service(run)
    yield from examine_limits(status)
    yield from examine_journal(run.settings.folder, now)


def _service(run: Invocation) -> "Finding":
    from atlas_sdk.cli.service_manager import missing, service_of, state_of
    from atlas_sdk.cli.service_plan import is_root, plan_of
    from atlas_sdk.provision import Finding

    try:
        service = service_of(plan_of(run, system=is_root()))
        reason = missing(service)
        if reason is not None:
            told = f"{reason}: the watcher has to be started by hand"
            return Finding(name="service", verdict="unknown", detail=told, fix=("atlasctl service status",))
        state = state_of(service)
    except (AtlasError, click.ClickException) as problem:
        sentence = problem.format_message() if isinstance(problem, click.ClickException) else str(problem)
        return Finding(name="service", verdict="unknown", detail=sentence)
    if not state.is_installed:
        told = "not installed: the watcher does not start by itself"
        return Finding(name="service", verdict="warning", detail=told, fix=("atlasctl service install",))
    if not state.is_running:
        return Finding(
            name="service",
            verdict="problem",
            detail=f"{service.unit} is {state.state}",
            fix=("atlasctl service start", "atlasctl service logs"),
        )
    restarts = "" if not state.restarts else f", restarted {state.restarts} times"
    return Finding(name="service", verdict="ok", detail=f"{service.unit} is {state.state}{restarts}")


def _canary(run: Invocation, patience_s: float) -> "list[CanaryStep]":
    from atlas_sdk.cli.canary import CanaryStep, release
    from watcher.status import read_status

    home = run.settings.folder
    try:
        with run.opened() as atlas:
            user = run.user(atlas)
            return release(atlas, user, home, status=lambda: read_status(home), patience_s=patience_s)
    except AtlasError as problem:
        return [CanaryStep(name="canary", seconds=None, detail=str(problem))]


def _finding_of(step: "CanaryStep") -> "Finding":
    from atlas_sdk.provision import Finding

    return Finding(name="canary", verdict="problem", detail=f"{step.name}: {step.detail}", fix=step.fix)


def _print_canary(run: Invocation, steps: "list[CanaryStep]", findings: "list[Finding]") -> None:
    from atlas_sdk.cli.db_doctor import print_finding

    if steps:
        run.out.line("canary")
    run.out.table(
        [("", step.name, f"{1000 * step.seconds:,.0f} ms", step.detail) for step in steps if step.seconds is not None]
    )
    for one in findings:
        if one.name == "canary":
            print_finding(run, one)
