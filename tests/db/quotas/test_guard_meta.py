"""The `meta` of a guard for the ledger: checked when given, and dropped if the amounts could not be written with it."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from guard_adapter import QuotaClient, used
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput
from atlas_sdk.guards.outbox import PendingSettlement
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.ops.amounts import meta_text

#: Values that Python accepts as JSON, but PostgreSQL's jsonb or the quota does not.
REFUSED: list[Any] = [
    {"a": float("nan")},
    {"a": [float("inf")]},
    {"a": "\x00"},
    {"a": {"\x00b": 1}},
    {"a": "\ud800"},
    {"a": "x" * 20_000},
    {"a": "x" * 16_376},
    {"a": "ü" * 8_188},
    {"a": [1e300] * 60},
]
TAKEN: list[Any] = [
    {},
    {"a": "x" * 16_375},
    {"a": "ü" * 8_187},
    {"a": "\\u0000", "b": "\\\\u0000"},
    {"a": '\x01\x7f\u2028 \\ " 😀'},
    {"a": [1e300] * 54},
    {"a": [1.5, -0.0, 1e-7, 2**70, None, True, {}]},
    {"a": "1e300 1e300"},
]


@pytest.mark.parametrize("meta", REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_stored_is_refused_when_it_is_told(client: QuotaClient, meta: Any) -> None:
    user = client.user()
    with client.guard(user, tokens=10) as g:
        with pytest.raises(InvalidInput) as refused:
            g.settle(tokens=3, meta=meta)
        assert refused.value.field == "meta"
        g.settle(tokens=3, meta={"model": "m"})
    assert used(client, user)[0] == 3


@pytest.mark.parametrize("meta", REFUSED, ids=range(len(REFUSED)))
def test_the_database_refuses_all_that_is_refused_here(quota_sql: QuotaSql, meta: Any) -> None:
    with pytest.raises((psycopg.DataError, UnicodeEncodeError)):
        quota_sql.reserve(quota_sql.user(), 1, meta=meta)


@pytest.mark.parametrize("meta", TAKEN, ids=range(len(TAKEN)))
def test_the_database_takes_all_that_is_taken_here(quota_sql: QuotaSql, meta: Any) -> None:
    assert meta_text(meta)
    assert quota_sql.reserve(quota_sql.user(), 1, meta=meta).granted


def test_what_is_told_cannot_change_any_more(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = client.user()
    told: dict[str, Any] = {"parts": [1]}
    with client.guard(user, tokens=10) as g:
        g.settle(tokens=3, meta=told)
        told["parts"].append(float("nan"))
        told["other"] = object()
    assert quota_sql.value("SELECT meta FROM usage_ledger WHERE user_id = %s", user.id) == {"parts": [1]}


def test_a_settlement_that_is_refused_for_its_meta_is_written_without_it(
    client: QuotaClient, quota_sql: QuotaSql, caplog: pytest.LogCaptureFixture
) -> None:
    user, backend = client.user(), client.quotas._backend
    held = client.do(backend.reserve(user, {"tokens": 10, "meta": {"project": "p"}}))
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"):
        settled = client.do(backend.settle(user, held, Outcome(tokens=3, meta={"a": float("nan")})))
    assert (settled.outcome, settled.tokens) == ("settled", 3)
    assert f"reservation {held.id} is written without its meta" in caplog.text
    assert used(client, user)[0] == 3
    assert quota_sql.value("SELECT meta FROM usage_ledger WHERE user_id = %s", user.id) == {"project": "p"}


def test_a_kept_settlement_that_is_refused_for_its_meta_is_written_without_it(client: QuotaClient) -> None:
    user, backend = client.user(), client.quotas._backend
    held = client.do(backend.reserve(user, {"tokens": 10}))
    backend.outbox.add(PendingSettlement(user=user, reservation_id=held.id, tokens=3, meta={"a": float("nan")}))
    # The first try is refused, and the second one is written.
    client.quotas.settle_pending()
    assert client.quotas.settle_pending() == 0
    assert used(client, user)[0] == 3
