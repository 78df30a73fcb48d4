"""Reserve and settle, compared with the calls that they replace: check the quota, then update the usage."""

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from atlas_sdk import Atlas, User
from benchmarks.bench import Bench
from benchmarks.slices import crew, paired, take_slices
from benchmarks.table import Row, at_least, per_second

_CLIENTS = 8
_USERS = 1_000
#: Limits that are checked, but never reached.
_PLAN: dict[str, Any] = {
    "tokens": 10**15,
    "cost": 10**9,
    "containers": 10**6,
    "requests_per_hour": 2 * 10**9,
    "builds_per_day": 10**6,
}
#: The original table of the product, with the same free space per page as ours.
_NAIVE_TABLE = """
CREATE TABLE naive_quotas (
    user_id uuid PRIMARY KEY,
    tokens_limit bigint, tokens_used bigint NOT NULL DEFAULT 0 CHECK (tokens_used >= 0),
    cost_limit numeric(20, 9), cost_used numeric(20, 9) NOT NULL DEFAULT 0 CHECK (cost_used >= 0),
    containers_limit integer, containers_used integer NOT NULL DEFAULT 0 CHECK (containers_used >= 0),
    requests_limit integer, requests_used integer NOT NULL DEFAULT 0 CHECK (requests_used >= 0),
    builds_limit integer, builds_used integer NOT NULL DEFAULT 0 CHECK (builds_used >= 0),
    period_start timestamptz NOT NULL DEFAULT now(),
    period_end timestamptz NOT NULL DEFAULT now() + interval '1 month',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TRIGGER update_naive_quotas_updated_at BEFORE UPDATE ON naive_quotas
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
INSERT INTO naive_quotas (user_id, tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit)
SELECT user_id, tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit FROM user_quotas;
"""
_CHECK = "SELECT tokens_used, tokens_limit, cost_used, cost_limit FROM naive_quotas WHERE user_id = %s"
_UPDATE = "UPDATE naive_quotas SET tokens_used = tokens_used + %s, cost_used = cost_used + %s WHERE user_id = %s"


def metered_users(bench: Bench, name: str, number: int) -> list[User]:
    """Create users with limits that are never reached."""
    bench.atlas.quotas.add_plan(name, **_PLAN)
    return [bench.atlas.users.create(f"{name}-{n}@bench.example", plan=name) for n in range(number)]


def _ours(atlas: Atlas, user: User) -> None:
    held = atlas.quotas.reserve(user, tokens=10, cost="0.01")
    atlas.quotas.settle(user, held.id, tokens=8, cost="0.009")


def _naive(connection: psycopg.Connection[Any], user_id: UUID) -> None:
    found = connection.execute(_CHECK, (user_id,), prepare=True).fetchone()
    if found is not None and found[0] < found[1] and found[2] < found[3]:
        connection.execute(_UPDATE, (8, "0.009", user_id), prepare=True)


@contextmanager
def _client(home: Path, dsn: str, users: Sequence[User], number: int) -> Iterator[Mapping[str, Callable[[], object]]]:
    dice = random.Random(number)
    with Atlas.open(home=home) as atlas, psycopg.connect(dsn, autocommit=True) as connection:
        for user in [users[0], *users[number::_CLIENTS]]:
            # The first call of a minute rotates the user's cells of the sliding hour, so do it before the slice.
            _ours(atlas, user)
            _naive(connection, user.id)
        yield {
            "ours, one hot user": lambda: _ours(atlas, users[0]),
            "naive, one hot user": lambda: _naive(connection, users[0].id),
            "ours, 1,000 users": lambda: _ours(atlas, dice.choice(users)),
            "naive, 1,000 users": lambda: _naive(connection, dice.choice(users).id),
        }


def quota_pairs(bench: Bench) -> list[Row]:
    """Let 8 processes run both pairs in turn, on one user and on a thousand users."""
    users = metered_users(bench, "pairs", _USERS)
    dsn = bench.atlas.url
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_NAIVE_TABLE)
    rows = []
    with crew(_CLIENTS, _client, bench.home, dsn, users) as clients:
        for who in ("one hot user", "1,000 users"):
            names = (f"ours, {who}", f"naive, {who}")
            done = take_slices(clients.slice, names, rounds=5 if bench.quick else 15, seconds=1.0)
            ours, theirs = done.values()
            ratio, note = paired(ours, theirs)
            rows.append(
                Row(
                    what=f"reserve + settle : naive check + update, {who}",
                    ours=per_second(statistics.median(each.rate for each in ours)),
                    peer=per_second(statistics.median(each.rate for each in theirs)),
                    paired=ratio,
                    target=at_least(0.6),
                    note=note,
                )
            )
    return rows
