"""`atlasctl db doctor`: find what is wrong with the database, and say how to fix it."""

import shlex
from typing import TYPE_CHECKING, Final

import click

from atlas_sdk import DatabaseUnreachable
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of
from atlas_sdk.cli.output import count, plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas_sdk.provision import Address, Diagnosis, Finding

_MARKS: Final = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
    "skipped": ("-", "yellow"),
    "unknown": ("?", "yellow"),
}
_NAME_WIDTH: Final = 12
#: For a part of the address that the suggested commands leave out: the variable that gives this part to libpq.
_GIVEN_BY: Final = {"password": "PGPASSWORD, or ~/.pgpass, gives it to them", "options": "PGOPTIONS gives them to them"}


@click.command(cls=Command, examples=("atlasctl db doctor", "atlasctl db doctor --json"))
@pass_run_anywhere
def doctor(run: Invocation) -> int:
    """Find what is wrong with the database, and say how to fix it.

    Checks the connection, the rights of your login and of atlas_app, the schema and its version, indexes, the isolation
    of tenants, settings, free connections, clocks, vacuum, and room on the disk. Changes nothing. Takes the same
    database as `db init`. Exits with 1 for a problem (not for a warning, !), with 5 without a connection. Suggested
    commands that end with a semicolon are for psql, the others for a shell.
    """
    found, address = diagnose(run)
    _print(run, found, address)
    if not found.reachable:
        return DatabaseUnreachable.exit_code
    return 0 if found.ok else FAILED


def diagnose(run: Invocation) -> "tuple[Diagnosis, Address]":
    """Examine the database of this call; return the diagnosis, whose commands reach it, and its address."""
    from atlas_sdk.cli.addressing import configured_or_variables
    from atlas_sdk.provision import embedded, examine

    address = configured_or_variables(run)
    if address is None:
        with embedded(run.settings.folder) as address:
            found = examine(address, home=run.settings.folder)
    else:
        found = examine(address, home=run.settings.folder)
    return _aimed(run, address, found), address


def _aimed(run: Invocation, address: "Address", found: "Diagnosis") -> "Diagnosis":
    """Return the diagnosis with the address added to its commands, so that these reach the examined database."""
    from attrs import evolve

    option = None
    if address.source == "embedded" and run.flags.home is not None:
        option = f"--home {shlex.quote(run.flags.home)}"
    findings = (
        evolve(one, fix=tuple(line if line.endswith(";") else address.aim(line, option=option) for line in one.fix))
        for one in found.findings
    )
    return evolve(found, findings=tuple(findings))


def _print(run: Invocation, found: "Diagnosis", address: "Address") -> None:
    if run.out.json:
        findings = [fields_of(one, "name verdict detail fix") for one in found.findings]
        names = "ok reachable database source findings"
        run.out.record(fields_of(found, names, database=found.place, findings=findings))
        return
    run.out.note(f"examining {found.place} (from {found.source})")
    for one in found.findings:
        print_finding(run, one)
    if address.secrets and any(address.option and address.option in line for one in found.findings for line in one.fix):
        left_out = ", ".join(address.secrets)
        run.out.note(f"the commands leave the {left_out} out: {_GIVEN_BY.get(left_out, 'add what they need yourself')}")
    print_totals(run, found.findings)


def print_finding(run: Invocation, one: "Finding") -> None:
    """Print a finding, and below it its advice."""
    mark, color = _MARKS[one.verdict]
    run.out.line(f"{run.out.style(mark, fg=color)} {one.name.ljust(_NAME_WIDTH)}  {plain(one.detail)}")
    for line in one.fix:
        run.out.line(f"    {run.out.style(plain(line), bold=not line.startswith('#'))}")


def print_totals(run: Invocation, findings: "Iterable[Finding]") -> None:
    """Print the numbers of problems and warnings."""
    verdicts = [one.verdict for one in findings]
    problems, warnings = verdicts.count("problem"), verdicts.count("warning")
    told = [count(number, name) for number, name in ((problems, "problem"), (warnings, "warning")) if number]
    run.out.note(", ".join(told) or "all is well")
