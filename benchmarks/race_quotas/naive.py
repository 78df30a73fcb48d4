"""The naive pair for comparison: check the quota, call, then update the usage. It oversells."""

import random
import time
from typing import Any
from uuid import UUID

import psycopg

from benchmarks.race_quotas.worker import Told

TABLE = """
CREATE TABLE naive_quotas (
    user_id uuid PRIMARY KEY,
    tokens_limit bigint NOT NULL,
    tokens_used bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER update_naive_quotas_updated_at BEFORE UPDATE ON naive_quotas
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
"""
_CHECK = "SELECT tokens_used, tokens_limit FROM naive_quotas WHERE user_id = %s"
_UPDATE = "UPDATE naive_quotas SET tokens_used = tokens_used + %s WHERE user_id = %s"


def naive(dsn: str, user_id: UUID, seed: str) -> None:
    """Call while the check allows it."""
    told, dice = Told(), random.Random(seed)
    while not told:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not told:
                    _call(connection, user_id, dice)
        except psycopg.OperationalError:
            # The server has crashed.
            time.sleep(0.2)


def _call(connection: psycopg.Connection[Any], user_id: UUID, dice: random.Random) -> None:
    tokens = dice.randint(10, 2000)
    found = connection.execute(_CHECK, (user_id,)).fetchone()
    time.sleep(dice.expovariate(1 / 0.03))
    if found is not None and found[0] + tokens <= found[1]:
        connection.execute(_UPDATE, (tokens, user_id))
