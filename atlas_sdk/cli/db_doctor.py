"""`atlasctl db doctor`: what is wrong with the database, and what mends it."""

import shlex
from typing import TYPE_CHECKING, Final

import click

from atlas_sdk.cli.command import Command, Flags
from atlas_sdk.cli.failures import FAILED

if TYPE_CHECKING:
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.provision import Address, Diagnosis

__all__ = ["doctor"]

_MARKS: Final = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
    "skipped": ("-", "yellow"),
    "unknown": ("?", "yellow"),
}
_NAME_WIDTH: Final = 12
#: What gives libpq a part of an address that a command leaves out.
_GIVEN_BY: Final = {
    "password": "PGPASSWORD, or ~/.pgpass, gives it to them",
    "options": "PGOPTIONS gives them to them",
}


@click.command(cls=Command, examples=("atlasctl db doctor", "atlasctl db doctor --json"))
@click.pass_obj
def doctor(flags: Flags) -> int:
    """Look for what is wrong with the database, and tell how to mend it.

    Can it be reached, may your login and atlas_app do what they need, is the schema there, complete and of this
    version, are indexes valid, are tenants kept apart, are settings safe, connections free, clocks in step, tables
    vacuumed, is there room on the disk? Only reads. The database is found as by `db init`. Exits with 1 when something
    is wrong, with 5 when there is no connection; a warning (!) alone is no error. Commands that end with a semicolon
    are for psql, the others for a shell.
    """
    from atlas_sdk import DatabaseUnreachable
    from atlas_sdk.cli.addressing import configured_or_variables
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.provision import embedded, examine

    run = Invocation(flags, of_project=False)
    address = configured_or_variables(run)
    if address is None:
        with embedded(run.settings.folder) as joined:
            found = examine(joined, home=run.settings.folder)
            address = joined
    else:
        found = examine(address, home=run.settings.folder)
    _print(run, _aimed(run, address, found), address)
    if not found.reachable:
        return DatabaseUnreachable.exit_code
    return 0 if found.ok else FAILED


def _aimed(run: "Invocation", address: "Address", found: "Diagnosis") -> "Diagnosis":
    """Let the commands of the advice go where this one went: else they would be done to another database."""
    from attrs import evolve

    option = None
    if address.source == "embedded" and run.flags.home is not None:
        option = f"--home {shlex.quote(run.flags.home)}"
    findings = (
        evolve(one, fix=tuple(line if line.endswith(";") else address.aim(line, option=option) for line in one.fix))
        for one in found.findings
    )
    return evolve(found, findings=tuple(findings))


def _print(run: "Invocation", found: "Diagnosis", address: "Address") -> None:
    from atlas_sdk.cli.output import count, plain

    if run.flags.json:
        findings = [
            {"name": one.name, "verdict": one.verdict, "detail": one.detail, "fix": list(one.fix)}
            for one in found.findings
        ]
        run.out.record(
            {
                "ok": found.ok,
                "reachable": found.reachable,
                "database": found.place,
                "source": found.source,
                "findings": findings,
            }
        )
        return
    run.out.note(f"examining {found.place} (from {found.source})")
    for one in found.findings:
        mark, color = _MARKS[one.verdict]
        run.out.line(f"{run.out.style(mark, fg=color)} {one.name.ljust(_NAME_WIDTH)}  {plain(one.detail)}")
        for line in one.fix:
            run.out.line(f"    {run.out.style(plain(line), bold=not line.startswith('#'))}")
    if address.secrets and any(address.option and address.option in line for one in found.findings for line in one.fix):
        left_out = ", ".join(address.secrets)
        run.out.note(f"the commands leave the {left_out} out: {_GIVEN_BY.get(left_out, 'add what they need yourself')}")
    problems = sum(one.verdict == "problem" for one in found.findings)
    warnings = sum(one.verdict == "warning" for one in found.findings)
    told = [count(number, name) for number, name in ((problems, "problem"), (warnings, "warning")) if number]
    run.out.note(", ".join(told) or "all is well")
