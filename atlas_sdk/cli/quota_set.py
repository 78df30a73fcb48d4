"""`atlasctl quota set` and `atlasctl quota grant`: change the limits of a user or a plan."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import click

from atlas_sdk.cli.command import UTF8, Command, F, user_option
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_grant
from atlas_sdk.cli.param_types import AMOUNT, COUNT, EXPIRY, MONEY, UNLIMITED, Limit, Size

#: The limits, by the names that the library gives them.
_LIMITS = (
    *("tokens", "cost", "containers", "requests_per_hour", "builds_per_day", "memory_bytes", "memory_hard"),
    *("projects", "sessions", "previews"),
)

_OPTIONS = (
    click.option("--tokens", type=COUNT, metavar="N", help="Tokens a month."),
    click.option("--cost", type=Limit(MONEY), metavar="DOLLARS", help="Dollars a month."),
    click.option("--containers", type=COUNT, metavar="N", help="Containers at the same time."),
    click.option("--requests-per-hour", type=COUNT, metavar="N", help="Requests in any hour."),
    click.option("--builds-per-day", type=COUNT, metavar="N", help="Builds in a day of the time zone."),
    click.option("--memory", "memory_bytes", type=Limit(Size()), metavar="SIZE", help="Bytes that memory may take."),
    click.option("--memory-hard/--memory-soft", default=None, help="Refuse new content above it, or only warn."),
    click.option("--projects", type=COUNT, metavar="N", help="Projects that are not deleted."),
    click.option("--sessions", type=COUNT, metavar="N", help="Sessions that are valid."),
    click.option("--previews", type=COUNT, metavar="N", help="Previews that live."),
)


def limit_options(command: F) -> F:
    """Add an option for every limit; `given_limits` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that the user gave, as the library takes them: None means unlimited."""
    named = {name: limits[name] for name in _LIMITS if limits[name] is not None}
    return {name: None if value == UNLIMITED else value for name, value in named.items()}


@click.command(
    "set",
    cls=Command,
    examples=(
        "atlasctl quota set --tokens 10M --cost 50",
        "atlasctl quota set --user ada@example.com --plan pro",
        "atlasctl quota set --user ada@example.com --containers unlimited --memory 1GiB --memory-hard",
        "atlasctl quota set --plan-limits --time-zone Europe/Berlin",
        "atlasctl quota set --for-plan free --requests-per-hour 200 --json",
    ),
)
@user_option
@limit_options
@click.option("--plan", metavar="NAME", type=UTF8, help="Move the user to this plan.")
@click.option("--plan-limits", is_flag=True, help="Drop limits that were set by hand, and use those of the plan.")
@click.option("--time-zone", metavar="ZONE", type=UTF8, help="Count days and months in this zone.")
@click.option("--for-plan", metavar="NAME", type=UTF8, help="Change this plan itself, for everybody who has it.")
@pass_run
def set_limits(
    run: Invocation,
    /,
    email: str | None,
    plan: str | None,
    time_zone: str | None,
    for_plan: str | None,
    *,
    plan_limits: bool,
    **limits: Any,
) -> None:
    """Change limits, the plan or the time zone of a user.

    Options that are not given change nothing. Write numbers as 5000, 1.5k, 10M or unlimited, and sizes as 100MiB or
    1GB. A new plan keeps the limits that were set by hand, and the amounts used so far. The time zone is changed first,
    then the plan, then the limits. If one change is refused, the later ones are not made.
    """
    from atlas_sdk.cli.quota_view import show_limits, show_quota

    named = given_limits(limits)
    if for_plan is not None:
        if email is not None or plan is not None or time_zone is not None or plan_limits:
            raise click.UsageError("--for-plan changes a plan: no --user, --plan, --plan-limits or --time-zone with it")
        if not named:
            raise click.UsageError("nothing to set: give a limit")
        with run.opened() as atlas:
            show_limits(run, atlas.quotas.set_plan_limits(for_plan, **named))
        return
    if not (named or plan is not None or time_zone is not None or plan_limits):
        raise click.UsageError("nothing to set: give a limit, --plan, --plan-limits or --time-zone")
    with run.opened() as atlas:
        user = run.user(atlas, email, make=True)
        if plan is not None:
            # Refuse an unknown plan before anything is changed.
            atlas.quotas.plan_limits(plan)
        if time_zone is not None:
            atlas.quotas.set_time_zone(user, time_zone)
        if plan is not None:
            user = atlas.users.set_plan(user, plan)
        if plan_limits:
            atlas.quotas.use_plan_limits(user)
        if named:
            atlas.quotas.set_limits(user, **named)
        show_quota(run, atlas, user)


@click.command(
    cls=Command,
    examples=(
        "atlasctl quota grant --tokens 500k",
        "atlasctl quota grant --user ada@example.com --cost 5 --expires 30d --reason 'sorry for the outage'",
        "atlasctl quota grant --tokens 1M --expires 2099-12-31 --json",
    ),
)
@user_option
@click.option("--tokens", type=AMOUNT, default=0, metavar="N", help="Tokens on top of the month's.")
@click.option("--cost", type=MONEY, default=Decimal(), metavar="DOLLARS", help="Dollars on top of the month's.")
@click.option("--expires", type=EXPIRY, metavar="WHEN", help="30d, 12h, 4w, or the last day.  [default: never]")
@click.option("--reason", type=UTF8, default="", metavar="TEXT", help="A remark to keep with it.")
@pass_run
def grant(
    run: Invocation, email: str | None, tokens: int, cost: Decimal, expires: timedelta | datetime | None, reason: str
) -> None:
    """Top up the month's tokens or dollars.

    Calls use the plan's own allowance first, and then the top-ups, beginning with the one that expires first. The rest
    of a top-up stays for the next month, until the top-up expires.
    """
    if not (tokens or cost):
        raise click.UsageError("nothing to grant: give --tokens or --cost")
    expires_in = expires if isinstance(expires, timedelta) else None
    expires_at = expires if isinstance(expires, datetime) else None
    with run.opened() as atlas:
        made = atlas.quotas.grant(
            run.user(atlas, email, make=True),
            tokens=tokens,
            cost=cost,
            expires_in=expires_in,
            expires_at=expires_at,
            reason=reason,
        )
    if run.out.json:
        run.out.record(of_grant(made))
        return
    from atlas_sdk.cli.quota_view import of_grants

    run.out.table(of_grants([made], out=run.out), styles=("green", "", "", "dim", "dim"))
