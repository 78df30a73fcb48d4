"""`atlasctl quota`: what users may use, have used, and whether the counters match the ledger."""

from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import GLOBAL_OPTIONS, Command, Flags, global_options, user_option
from atlas_sdk.cli.quota_set import grant, set_limits

if TYPE_CHECKING:
    from atlas_sdk import QuotaAccounting

__all__ = ["quota"]


@click.group(params=global_options(everywhere=True), epilog=GLOBAL_OPTIONS)
def quota() -> None:
    """Show and set what users may use.

    Tokens and dollars a month, containers at the same time, requests an hour, builds a day, and bytes of memory. A
    limit is never passed: what would do so is refused before it happens. Memory alone is only told of, unless its limit
    is made hard.
    """


@quota.command(
    cls=Command,
    examples=(
        "atlasctl quota show",
        "atlasctl quota show --user ada@example.com --json",
        "atlasctl quota show --check",
    ),
)
@user_option
@click.option("--check", is_flag=True, help="Exit with 4 when a limit is reached, and say which.")
@click.pass_obj
def show(flags: Flags, email: str | None, *, check: bool) -> int:
    """Show what is used, promised and allowed.

    With the top-ups that are open, what is running, and when the month's tokens or dollars run out if it goes on like
    this. What is held is promised to calls that are not settled yet, and counts like what is used.
    """
    from atlas_sdk import QuotaExceeded
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.cli.quota_view import show_quota

    run = Invocation(flags)
    with run.opened() as atlas:
        reason = show_quota(run, atlas, run.user(atlas, email))
    if not check or reason is None:
        return 0
    run.out.note(f"a limit is reached: {reason}")
    return QuotaExceeded.exit_code


@quota.command(
    cls=Command,
    examples=("atlasctl quota history", "atlasctl quota history --user ada@example.com -n 3 --json"),
)
@user_option
@click.option("-n", "--limit", type=click.IntRange(1, 1200), default=24, show_default=True, help="Months at most.")
@click.pass_obj
def history(flags: Flags, email: str | None, limit: int) -> None:
    """List the months that have ended, newest first.

    What each used, and what was allowed at its end, top-ups included. A call that began in a month and is settled later
    is charged to that month.
    """
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.cli.json_output import of_period
    from atlas_sdk.cli.quota_view import dollars

    run = Invocation(flags)
    with run.opened() as atlas:
        periods = atlas.quotas.history(run.user(atlas, email), limit=limit)
    if flags.json:
        for period in periods:
            run.out.record(of_period(period))
        return
    run.out.table(
        [
            (
                f"{period.period_start.astimezone():%Y-%m-%d}",
                f"{period.period_end.astimezone():%Y-%m-%d}",
                f"{period.tokens_used:,} tokens",
                "unlimited" if period.tokens_limit is None else f"of {period.tokens_limit:,}",
                dollars(period.cost_used),
                "unlimited" if period.cost_limit is None else f"of {dollars(period.cost_limit)}",
            )
            for period in periods
        ],
        styles=("bold", "dim", "", "dim", "", "dim"),
    )
    if not periods:
        run.out.note("no month has ended yet")


@quota.command(cls=Command, examples=("atlasctl quota verify", "atlasctl quota verify --json"))
@click.pass_obj
def verify(flags: Flags) -> int:
    """Compare the counters of all users with the ledger.

    What is used has to be the sum of the ledger, and what is held the sum of what is not settled, in every month of
    every user. Changes nothing. Exits with 6 when a month does not balance.
    """
    from atlas_sdk.cli.failures import NOT_PROTECTED
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.cli.output import count, iso

    run = Invocation(flags)
    with run.opened() as atlas:
        audit = atlas.quotas.verify()
    if flags.json:
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
    """Return the counters that are wrong, each with what it says and what it should say."""
    pairs = {
        "tokens_used": (books.tokens_used, books.tokens_charged),
        "cost_used": (books.cost_used, books.cost_charged),
        "tokens_held": (books.tokens_held, books.tokens_reserved),
        "cost_held": (books.cost_held, books.cost_reserved),
        "containers": (books.slots_held, books.slots_reserved),
        "requests_held": (books.requests_held, books.requests_reserved),
    }
    return {name: (str(says), str(should)) for name, (says, should) in pairs.items() if says != should}


@quota.command(cls=Command, examples=("atlasctl quota reset", "atlasctl quota reset --json"))
@click.pass_obj
def reset(flags: Flags) -> None:
    """Close the months that have ended, of all users.

    For a job on the first of the month, and safe on any other day: it makes the history complete. No limit depends on
    it, since every call does the same for its own user.
    """
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.cli.output import count

    run = Invocation(flags)
    with run.opened() as atlas:
        closed = atlas.quotas.reset_monthly()
    if flags.json:
        run.out.record({"closed": closed})
        return
    run.out.line(f"{count(closed, 'month')} closed")


quota.add_command(set_limits)
quota.add_command(grant)
