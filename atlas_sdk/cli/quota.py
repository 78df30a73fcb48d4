"""`atlasctl quota`: show and set limits, and check the counters against the ledger."""

from typing import TYPE_CHECKING

import click

from atlas_sdk import QuotaExceeded
from atlas_sdk.cli.command import command_group, user_option
from atlas_sdk.cli.failures import NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_period
from atlas_sdk.cli.output import count, iso
from atlas_sdk.cli.quota_set import grant, set_limits

if TYPE_CHECKING:
    from atlas_sdk.results import QuotaAccounting


@command_group
def quota() -> None:
    """Show and set what users may use.

    The limits are tokens and dollars a month, containers at the same time, requests an hour, builds a day, and bytes of
    memory. A call that would exceed a limit is refused before it runs. The memory limit only warns, unless it is made
    hard.
    """


@quota.command(
    examples=("atlasctl quota show", "atlasctl quota show --user ada@example.com --json", "atlasctl quota show --check")
)
@user_option
@click.option("--check", is_flag=True, help="Exit with 4 when a limit is reached, and say which.")
@pass_run
def show(run: Invocation, email: str | None, *, check: bool) -> int:
    """Show what is used, held and allowed.

    Also shows open top-ups, running calls, and the time when the month's tokens or dollars run out at the present rate.
    Held amounts are reserved for calls that are not settled yet, and count as used.
    """
    from atlas_sdk.cli.quota_view import show_quota

    with run.opened() as atlas:
        reason = show_quota(run, atlas, run.user(atlas, email))
    if not check or reason is None:
        return 0
    run.out.note(f"a limit is reached: {reason}")
    return QuotaExceeded.exit_code


@quota.command(examples=("atlasctl quota history", "atlasctl quota history --user ada@example.com -n 3 --json"))
@user_option
@click.option("-n", "--limit", type=click.IntRange(1, 1200), default=24, show_default=True, help="Months at most.")
@pass_run
def history(run: Invocation, email: str | None, limit: int) -> None:
    """List the months that have ended, newest first.

    Each with its use, and its limits at the end with top-ups. A call is charged to the month in which it began, even if
    it is settled later.
    """
    from atlas_sdk.cli.quota_view import dollars

    with run.opened() as atlas:
        periods = atlas.quotas.history(run.user(atlas, email), limit=limit)
    run.out.listing(
        periods,
        of_period,
        lambda one: (
            f"{one.period_start.astimezone():%Y-%m-%d}",
            f"{one.period_end.astimezone():%Y-%m-%d}",
            f"{one.tokens_used:,} tokens",
            "unlimited" if one.tokens_limit is None else f"of {one.tokens_limit:,}",
            dollars(one.cost_used),
            "unlimited" if one.cost_limit is None else f"of {dollars(one.cost_limit)}",
        ),
        styles=("bold", "dim", "", "dim", "", "dim"),
    )
    if not periods:
        run.out.note("no month has ended yet")


@quota.command(examples=("atlasctl quota verify", "atlasctl quota verify --json"))
@pass_run
def verify(run: Invocation) -> int:
    """Compare the counters of all users with the ledger.

    In every month of every user, the used amount must be the sum of the ledger, and the held amount the sum of the open
    reservations. Changes nothing. Exits with 6 when a month does not balance.
    """
    with run.opened() as atlas:
        audit = atlas.quotas.verify()
    if run.out.json:
        unbalanced = [
            {"user_id": str(books.user_id), "period_start": books.period_start, "differences": _differences(books)}
            for books in audit.unbalanced
        ]
        run.out.record({"ok": audit.balanced, "periods": audit.periods, "unbalanced": unbalanced})
        return 0 if audit.balanced else NOT_PROTECTED
    for books in audit.unbalanced:
        differs = ", ".join(f"{name} {pair[0]} but {pair[1]} on record" for name, pair in _differences(books).items())
        run.out.line(f"unbalanced  user {books.user_id}  month of {iso(books.period_start)}  {differs}")
    if audit.balanced:
        run.out.line(f"{count(audit.periods, 'month')}: the counters match the ledger")
        return 0
    run.out.note(f"{count(len(audit.unbalanced), 'month')} of {audit.periods:,} not balanced")
    return NOT_PROTECTED


def _differences(books: "QuotaAccounting") -> dict[str, tuple[str, str]]:
    """Return the wrong counters, each with its value and the right one."""
    pairs = {
        "tokens_used": (books.tokens_used, books.tokens_charged),
        "cost_used": (books.cost_used, books.cost_charged),
        "tokens_held": (books.tokens_held, books.tokens_reserved),
        "cost_held": (books.cost_held, books.cost_reserved),
        "containers": (books.slots_held, books.slots_reserved),
        "requests_held": (books.requests_held, books.requests_reserved),
    }
    return {name: (str(says), str(should)) for name, (says, should) in pairs.items() if says != should}


@quota.command(examples=("atlasctl quota reset", "atlasctl quota reset --json"))
@pass_run
def reset(run: Invocation) -> None:
    """Close the months that have ended, of all users.

    Completes the history. Made for a job on the first of the month, and safe on any other day. No limit depends on it:
    every call closes the months of its own user.
    """
    with run.opened() as atlas:
        closed = atlas.quotas.reset_monthly()
    run.out.result({"closed": closed}, f"{count(closed, 'month')} closed")


quota.add_command(set_limits)
quota.add_command(grant)
