"""`atlasctl plans`: list, show and add plans."""

from typing import TYPE_CHECKING, Any

import click

from atlas_sdk.cli.command import UTF8, command_group
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import of_limits
from atlas_sdk.cli.output import plain, size
from atlas_sdk.cli.quota_set import given_limits, limit_options

if TYPE_CHECKING:
    from atlas_sdk import Limits

#: The limits that every plan must give: a forgotten limit would allow any amount.
_REQUIRED = ("tokens", "cost", "containers", "requests_per_hour", "builds_per_day")


@command_group
def plans() -> None:
    """List and add plans.

    A plan sets the limits of everybody who has it. `atlasctl user set EMAIL --plan NAME` moves a user to one, and
    `atlasctl quota set --for-plan NAME` changes what it allows.
    """


@plans.command("list", examples=("atlasctl plans list", "atlasctl plans list --json"))
@pass_run_anywhere
def list_plans(run: Invocation) -> None:
    """List the plans with their limits.

    Tokens and dollars are a month's, containers run at the same time. `atlasctl plans show` has the other limits.
    """
    with run.opened() as atlas:
        found = atlas.quotas.plans()
    run.out.listing(found, of_limits, _row, styles=("bold", "", "", "", "", "dim", "dim"))


def _row(plan: "Limits") -> tuple[str, ...]:
    from atlas_sdk.cli.quota_view import dollars

    def amount(value: int | None, unit: str) -> str:
        return f"unlimited {unit}" if value is None else f"{value:,} {unit}"

    return (
        plain(plan.name),
        amount(plan.tokens, "tokens"),
        "unlimited cost" if plan.cost is None else dollars(plan.cost),
        amount(plan.containers, "containers"),
        amount(plan.requests_per_hour, "requests an hour"),
        amount(plan.builds_per_day, "builds a day"),
        "unlimited memory" if plan.memory_bytes is None else f"{size(plan.memory_bytes)} memory",
    )


@plans.command(examples=("atlasctl plans show free", "atlasctl plans show pro --json"))
@click.argument("name", type=UTF8)
@pass_run_anywhere
def show(run: Invocation, name: str) -> None:
    """Show every limit of a plan.

    Exits with 3, and names the plans, when there is no such plan.
    """
    from atlas_sdk.cli.quota_view import show_limits

    with run.opened() as atlas:
        show_limits(run, atlas.quotas.plan_limits(name))


@plans.command(
    examples=(
        "atlasctl plans add team --tokens 5M --cost 50 --containers 5 --requests-per-hour 1k --builds-per-day 50",
    )
)
@click.argument("name", type=UTF8)
@limit_options
@pass_run_anywhere
def add(run: Invocation, /, name: str, **limits: Any) -> None:
    """Add a plan.

    NAME is up to 40 of a-z, 0-9, "_" and "-". Tokens, dollars, containers, requests and builds have to be given, if
    only as "unlimited"; what else is left out is unlimited. Exits with 1 when the plan is there already.
    """
    from atlas_sdk.cli.quota_view import show_limits

    if any(limits[name] is None for name in _REQUIRED):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in _REQUIRED)
        raise click.UsageError(f"give each of {options}: a number, or unlimited")
    with run.opened() as atlas:
        show_limits(run, atlas.quotas.add_plan(name, **given_limits(limits)))
