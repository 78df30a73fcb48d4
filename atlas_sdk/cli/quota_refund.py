"""`atlasctl quota refund`: give back what was charged by mistake."""

from decimal import Decimal
from uuid import UUID

import click

from atlas_sdk.cli.command import UTF8, Command, user_option
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import fields_of
from atlas_sdk.cli.param_types import AMOUNT, MONEY


@click.command(
    cls=Command,
    examples=(
        "atlasctl quota refund 0197c1d2-7f40-7c3a-9d1e-5b8a8b0c2d11 --reason 'the provider failed'",
        "atlasctl quota refund 0197c1d2-7f40-7c3a-9d1e-5b8a8b0c2d11 --tokens 5k --cost 0.12 --reason 'counted twice'",
        "atlasctl quota refund 0197c1d2-7f40-7c3a-9d1e-5b8a8b0c2d11 --user ada@example.com --reason 'ticket 7' --json",
    ),
)
@click.argument("charge", type=click.UUID)
@user_option
@click.option("--tokens", type=AMOUNT, metavar="N", help="Tokens to give back.")
@click.option("--cost", type=MONEY, metavar="DOLLARS", help="Dollars to give back.")
@click.option("--reason", type=UTF8, required=True, metavar="TEXT", help="The reason, for the audit.")
@click.option("--id", "refund_id", type=click.UUID, metavar="UUID", help="The refund's id, which books it only once.")
@pass_run
def refund(
    run: Invocation,
    charge: UUID,
    email: str | None,
    tokens: int | None,
    cost: Decimal | None,
    reason: str,
    refund_id: UUID | None,
) -> None:
    """Give back tokens or dollars that were charged by mistake.

    CHARGE is the id of a reservation that has ended, or of its row in the ledger. Without --tokens and --cost,
    everything that is left of the charge is given back. The month that was charged gets it, also when that month has
    ended, and the top-ups that paid. To add to this month's allowance instead, use `atlasctl quota grant`.
    """
    from atlas_sdk.cli.quota_view import dollars

    with run.opened() as atlas:
        user = run.user(atlas, email)
        made = atlas.quotas.refund(user, charge, tokens=tokens, cost=cost, reason=reason, refund_id=refund_id)
    done = "was refunded before" if made.repeated else "refunded"
    month = f"{made.period_start.astimezone():%Y-%m-%d}"
    run.out.result(
        fields_of(made, "id reservation tokens cost period_start repeated", reservation=made.reservation_id),
        f"{done}: {made.tokens:,} tokens and {dollars(made.cost)} in the month of {month}  {made.id}",
    )
