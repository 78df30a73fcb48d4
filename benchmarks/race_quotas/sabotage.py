"""Bugs that are put into the product on purpose. A race that does not find them would prove nothing."""

import psycopg

#: Bugs by name: functions, texts in them, and the replacements of the texts.
SABOTAGES: dict[str, list[tuple[str, str, str]]] = {
    # Reservations of others do not count.
    "holds": [
        (
            "quota_reserve",
            "u.tokens_used + u.tokens_held + tokens <= u.tokens_limit",
            "u.tokens_used + tokens <= u.tokens_limit",
        ),
        (
            "quota_decide",
            "p_tokens > q.tokens_limit - q.tokens_used - q.tokens_held",
            "p_tokens > q.tokens_limit - q.tokens_used",
        ),
    ],
    "slots": [
        (
            "quota_reserve",
            "u.containers_used::bigint + slots <= u.containers_limit",
            "u.containers_used < 2 * u.containers_limit",
        ),
        (
            "quota_decide",
            "p_slots > q.containers_limit::bigint - q.containers_used",
            "q.containers_used >= 2 * q.containers_limit",
        ),
    ],
    # Requests are admitted without being counted.
    "requests": [
        (
            "quota_hit",
            "SET request_cells[61] = u.request_cells[61] + p_requests, requests_used = u.requests_used + p_requests",
            "SET requests_used = u.requests_used",
        )
    ],
    "estimate": [
        (
            "quota_settle",
            "s.tokens := coalesce(p_tokens, nullif(hold.tokens_progressed, 0), hold.tokens)",
            "s.tokens := hold.tokens",
        )
    ],
    "reclaim": [("quota_reclaim", "q.tokens_held - hold.tokens", "q.tokens_held")],
    "epoch": [("quota_reserve", "epoch = u.epoch + 1", "epoch = u.epoch + (random() > 0.05)::integer")],
}


def sabotage(dsn: str, name: str) -> None:
    """Break the functions of a migrated database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for function, right, wrong in SABOTAGES[name]:
            found = connection.execute("SELECT pg_get_functiondef(%s::regproc)", (function,)).fetchone()
            source = str(found and found[0])
            if right not in source:
                message = f"{function} has no {right!r} any more: the sabotage {name!r} is out of date"
                raise LookupError(message)
            connection.execute(source.replace(right, wrong))
