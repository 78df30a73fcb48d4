"""Functions that are broken on purpose. The machine must notice each mutant, in short cuts and in long ways.

The mutants in ALWAYS run with the suite. `make mutants` runs all of them, which takes some minutes.
"""

from __future__ import annotations

import sys

import psycopg
import pytest
from attrs import frozen
from mutants import mutated
from test_quota_machine import drive

from atlas_sdk import AtlasError


@frozen
class Mutant:
    """A function, and the texts in it that are replaced."""

    function: str
    changes: tuple[tuple[str, str], ...]
    #: Words of the expected failure. A mutant that fails for another reason proves nothing.
    dies_of: str


MUTANTS = {
    # Reservations.
    "short cut of reserve ignores holds": Mutant(
        "quota_reserve",
        (("u.tokens_used + u.tokens_held + tokens <= u.tokens_limit", "u.tokens_used + tokens <= u.tokens_limit"),),
        "DID NOT RAISE|assert",
    ),
    "reserve ignores holds": Mutant(
        "quota_decide",
        (("p_tokens > q.tokens_limit - q.tokens_used - q.tokens_held", "p_tokens > q.tokens_limit - q.tokens_used"),),
        "DID NOT RAISE|assert|whole_big",
    ),
    "elastic grant ignores holds": Mutant(
        "quota_reserve",
        (("least(tokens, q.tokens_limit - q.tokens_used - q.tokens_held)", "least(tokens, q.tokens_limit)"),),
        "assert",
    ),
    "short cut of reserve does not take back what it counted": Mutant(
        "quota_reserve", (("SET tokens_held = u.tokens_held - tokens, cost_held", "SET cost_held"),), "assert"
    ),
    "short cut of reserve does not give the slots back": Mutant(
        "quota_reserve", (("containers_used = u.containers_used - slots,", ""),), "assert"
    ),
    "short cut of reserve forgets the ids of the ledger": Mutant(
        "quota_reserve", (("WHERE l.user_id = p_user AND l.reservation_id = p_id", "WHERE false"),), "assert|RAISE"
    ),
    "reserve forgets earlier ids": Mutant("quota_reserve", (("IF d.repeated THEN", "IF false THEN"),), "."),
    "reserve ignores slots": Mutant(
        "quota_reserve", (("u.containers_used::bigint + slots <= u.containers_limit", "true"),), "DID NOT RAISE|assert"
    ),
    # Settlements.
    "short cut of settle charges the estimate": Mutant(
        "quota_settle", (("s.tokens := coalesce(p_tokens, nullif(", "s.tokens := coalesce(nullif("),), "assert"
    ),
    "settle charges the estimate": Mutant(
        "quota_settle",
        (
            (
                "s.outcome := 'settled';\n                s.overrun",
                "s.outcome := 'settled' ;\n                s.overrun",
            ),
            (
                "s.outcome := 'settled';\n        s.tokens := coalesce(p_tokens,",
                "s.outcome := 'settled';\n        s.tokens := coalesce(",
            ),
        ),
        "assert",
    ),
    "short cut of settle is not idempotent": Mutant(
        "quota_settle",
        (("DELETE FROM quota_reservations AS r\n", "UPDATE quota_reservations AS r SET meta = r.meta\n"),),
        ".",
    ),
    "settle is not idempotent": Mutant("quota_settle", (("IF done.settled THEN", "IF false THEN"),), "."),
    "short cut of settle pays for another month": Mutant(
        "quota_settle", (("AND u.period_start = hold.period_start", ""),), "assert"
    ),
    "short cut of settle charges an overrun as if it had been promised": Mutant(
        "quota_settle", (("s.tokens <= hold.tokens AND s.cost <= hold.cost\n", "true\n"),), "overrun|assert"
    ),
    "late settlement charges again": Mutant(
        "quota_settle", (("delta_tokens := s.tokens - done.tokens", "delta_tokens := s.tokens"),), "assert"
    ),
    "released stream is free": Mutant("quota_release", (("IF hold.tokens_progressed > 0", "IF false"),), "assert"),
    # Expiry.
    "reclaim leaks the hold": Mutant("quota_reclaim", (("q.tokens_held - hold.tokens", "q.tokens_held"),), "assert"),
    "reclaim leaks the slots": Mutant(
        "quota_reclaim",
        (("q.containers_used - hold.slots", "q.containers_used"),),
        ".",
    ),
    "reclaim charges the wrong month": Mutant(
        "quota_reclaim", (("IF hold.period_start = q.period_start THEN", "IF true THEN"),), "whole_big|assert"
    ),
    # Blocks. (test_quota_hits.py covers requests, of which there are few here.)
    "block ignores holds": Mutant(
        "quota_lease", (("div(q.tokens_limit - q.tokens_used - q.tokens_held,", "div(q.tokens_limit,"),), "assert"
    ),
    "block counts its own holder twice": Mutant(
        "quota_lease", (("AND r.holder <> coalesce(p_holder, '')", ""),), "assert"
    ),
    "block's requests are not promised": Mutant(
        "quota_lease", (("requests_held = q.requests_held + d.requests,", ""),), "."
    ),
    "settled block counts no requests": Mutant(
        "quota_settle",
        (("CASE WHEN hold.leased THEN coalesce(p_requests, hold.requests) ELSE delta_requests END", "0"),),
        "assert",
    ),
    # Waiting calls.
    "waiting calls overtake each other": Mutant(
        "quota_wait", (("AND (turn IS NULL OR w.number < turn)", "AND false"),), "assert"
    ),
    "waiting call gets a new place with every try": Mutant(
        "quota_wait",
        (
            (
                "SET alive_until = greatest(quota_waiters.alive_until, excluded.alive_until)",
                "SET number = excluded.number",
            ),
        ),
        "assert",
    ),
    "served call stays in the queue": Mutant(
        "quota_leave", (("DELETE FROM quota_waiters AS w WHERE", "PERFORM FROM quota_waiters AS w WHERE"),), "assert"
    ),
    "hopeless call waits": Mutant("quota_wait", (("final.state = 'refused'", "false"),), "DID NOT RAISE"),
    # Refunds and ids.
    "refund leaves the counters": Mutant("quota_refund", (("PERFORM quota_post(", "PERFORM num_nulls("),), "assert"),
    "refund exceeds the charge": Mutant(
        "quota_refund", (("IF r.tokens > charge.tokens OR", "IF"),), "DID NOT RAISE|whole_big"
    ),
    "refund forgets the refunds before it": Mutant(
        "quota_refund", ((" OR l.corrects = r.reservation_id)", ")"),), "DID NOT RAISE|assert|whole_big"
    ),
    "refund is not idempotent": Mutant("quota_refund", (("IF FOUND THEN", "IF false THEN"),), "."),
    "refund goes to the present month": Mutant(
        "quota_refund", (("hold.period_start := r.period_start", "hold.period_start := q.period_start"),), "."
    ),
    "refund of a reservation that is held": Mutant(
        "quota_refund", (("IF attempt = 2 THEN", "IF false THEN"),), "DID NOT RAISE|has the id|Regex"
    ),
    "refund leaves what has expired": Mutant(
        "quota_refund", (("q := quota_reclaim(q, clock_timestamp());", "NULL;"),), "still held"
    ),
    "late settlement undoes a refund": Mutant(
        "quota_settle",
        (
            (
                "SELECT greatest(coalesce(p_tokens, done.tokens), -sum(l.amount))",
                "SELECT coalesce(p_tokens, done.tokens)",
            ),
        ),
        ".",
    ),
    "id of a running call forgets its amounts": Mutant(
        "quota_find",
        (("(r.asked <> p_asked) IS NOT TRUE, CASE WHEN r.asked <> p_asked", "true, CASE WHEN false"),),
        "RAISE",
    ),
    "id of an ended call forgets its amounts": Mutant(
        "quota_find", (("CASE WHEN l.asked <> p_asked THEN 'conflict' WHEN", "CASE WHEN"),), "RAISE|."
    ),
    # Times.
    "refusal hopes for a top-up that expires": Mutant(
        "quota_refuse", (("coalesce(o.expires_at > q.period_end, true)", "true"),), "assert"
    ),
    "refusal hopes for a top-up that reservations need": Mutant(
        "quota_refuse", (("p_used + p_held - plan - p_burned", "p_used - plan - p_burned"),), "assert"
    ),
    "refusal overlooks what never fits": Mutant(
        "quota_decide", (("IF NOT other.granted AND", "IF false AND"),), "assert"
    ),
    # Limits.
    "another plan drops top-ups": Mutant(
        "quota_apply_plan", (("ELSE p.tokens_limit + u.tokens_granted END", "ELSE p.tokens_limit END"),), "assert"
    ),
    "another plan drops what was set by hand": Mutant(
        "quota_apply_plan", (("'tokens' = ANY (u.overridden)", "false"),), "assert"
    ),
    "top-up is there again next month": Mutant(
        "quota_consume_grants",
        (("tokens_burned = g.tokens_burned, cost_burned", "cost_burned"),),
        "assert|refused a value",
    ),
    "top-up does not come back": Mutant("quota_post", (("PERFORM quota_give_back(", "PERFORM num_nulls("),), "assert"),
    "top-up comes back in full": Mutant(
        "quota_give_back", (("greatest(p_tokens - h.tokens_unpaid, 0)", "greatest(p_tokens, 0)"),), "assert"
    ),
    "top-up comes back twice": Mutant("quota_give_back", (("SET burned = h.burned,", "SET"),), "."),
    "promise is charged to every top-up when one expires": Mutant(
        "quota_consume_grants", (("AND (p_ends OR o.expires_at <= p_at)", ""),), "assert"
    ),
    "month is closed before what has expired in it": Mutant(
        "quota_lock", (("q := quota_reclaim(q, at);", ""),), "assert"
    ),
    "late release charges the promise": Mutant(
        "quota_release", (("IF done.entries = 0 OR done.released", "IF true"),), "assert|has no reservation"
    ),
    "expired top-up stays": Mutant(
        "quota_consume_grants", (("tokens_lost := tokens_lost +", "tokens_lost := 0 *"),), "assert"
    ),
    "no limit becomes one": Mutant(
        "quota_consume_grants",
        (
            (
                "THEN greatest(q.tokens_limit - q.tokens_granted, 0) + tokens_left END",
                "THEN greatest(q.tokens_limit - q.tokens_granted, 0) + tokens_left ELSE tokens_left END",
            ),
        ),
        "assert",
    ),
}


#: Mistakes that quota systems often make: forgotten reservations, charged estimates, settling twice, leaked holds.
ALWAYS = {
    "short cut of reserve ignores holds",
    "settle charges the estimate",
    "settle is not idempotent",
    "reclaim leaks the hold",
}


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.mutants) for name in MUTANTS]
)
def test_machine_notices_that(dsn: str, name: str) -> None:
    mutant = MUTANTS[name]
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        mutated(connection, mutant.function, *mutant.changes),
        pytest.raises((AssertionError, AtlasError, pytest.fail.Exception), match=mutant.dies_of) as noticed,
    ):
        drive(dsn, 500)
    sys.stdout.write(f"{name}: {type(noticed.value).__name__}: {noticed.value}\n")
