"""The ledger beside the quotas: exact sums by day, kind, model and project."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from atlas_sdk import AlreadyExists, InvalidInput, NotFound, Project, User

Row = tuple[Any, ...]


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com", plan="enterprise")


@pytest.fixture
def project(client: Any, user: User) -> Project:
    return client.projects.create(user, path="/srv/app")


def at(dsn: str, entry_id: UUID, moment: datetime) -> None:
    with psycopg.connect(dsn) as raw:
        raw.execute("UPDATE usage_ledger SET created_at = %s WHERE id = %s", (moment, entry_id))


def test_an_entry_is_kept_exactly_and_counts_against_no_limit(client: Any, user: User, project: Project) -> None:
    entry = client.usage.log(
        user,
        kind="container_minutes",
        amount="0.333333",
        cost="0.000000001",
        project=project,
        meta={"container": "c1"},
    )
    assert (entry.kind, entry.amount, entry.cost) == (
        "container_minutes",
        Decimal("0.333333"),
        Decimal("0.000000001"),
    )
    assert (entry.project_id, entry.meta, entry.user_id) == (project.id, {"container": "c1"}, user.id)
    client.usage.log(user, kind="minutes", amount=1500, cost=Decimal("0.03"))
    usage = client.quotas.usage(user)
    assert (usage.tokens_used, usage.cost_used) == (0, 0)
    assert client.quotas.verify(user).balanced


def test_an_id_makes_an_entry_once(client: Any, user: User) -> None:
    key = uuid4()
    first = client.usage.log(user, kind="minutes", amount="2.5", cost="0.1", usage_id=key)
    assert first.id == key
    assert client.usage.log(user, kind="minutes", amount=Decimal("2.50"), cost="0.10", usage_id=key) == first
    for other in ({"amount": 3}, {"kind": "hours"}, {"cost": "0.2"}):
        with pytest.raises(AlreadyExists) as refusal:
            client.usage.log(user, **{"kind": "minutes", "amount": "2.5", "cost": "0.1", "usage_id": key, **other})
        assert refusal.value.name == str(key)
    (total,) = client.usage.totals(user)
    assert (total.entries, total.amount, total.cost) == (1, Decimal("2.5"), Decimal("0.1"))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"kind": "Tokens"}, "kind"),
        ({"kind": ""}, "kind"),
        ({"kind": "k" * 65}, "kind"),
        ({"amount": 1.5}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "many"}, "amount"),
        ({"amount": "1e14"}, "amount"),
        ({"amount": "1e1000000"}, "amount"),
        ({"amount": "-1e1000000"}, "amount"),
        ({"amount": 10**5000}, "amount"),
        # These would be rounded up to the limit.
        ({"amount": "99999999999999.9999999"}, "amount"),
        ({"cost": "-99999999999.9999999999"}, "cost"),
        ({"amount": True}, "amount"),
        ({"cost": "Infinity"}, "cost"),
        ({"cost": "1e11"}, "cost"),
        ({"cost": 0.1}, "cost"),
        ({"meta": [1]}, "meta"),
    ],
)
def test_bad_input_is_named(client: Any, user: User, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        client.usage.log(user, **{"kind": "minutes", "amount": 1, **bad})
    assert failure.value.field == field


@pytest.mark.parametrize("kind", ["tokens", "expired", "released", "refund"])
@pytest.mark.parametrize(
    ("amounts", "way"),
    [
        ({"amount": 900}, "quotas.add_tokens"),
        ({"amount": -900}, "quotas.refund"),
        ({"amount": 0, "cost": "-0.5"}, "quotas.refund"),
    ],
)
def test_what_quotas_count_cannot_be_logged(
    client: Any, user: User, dsn: str, kind: str, amounts: dict[str, Any], way: str
) -> None:
    with pytest.raises(InvalidInput, match=f"would change no budget: {way}") as refused:
        client.usage.log(user, kind=kind, **amounts)
    assert refused.value.field == "kind"
    with psycopg.connect(dsn) as raw, pytest.raises(psycopg.errors.CheckViolation, match="needs a period"):
        raw.execute("INSERT INTO usage_ledger (user_id, kind, amount) VALUES (%s, %s, 5)", (user.id, kind))


def test_a_project_of_another_user_is_refused(client: Any, project: Project) -> None:
    eve = client.users.create("eve@example.com")
    with pytest.raises(InvalidInput, match="belongs to another user"):
        client.usage.log(eve, kind="minutes", amount=1, project=project)


def test_nobody_has_no_ledger(client: Any, user: User, dsn: str) -> None:
    with psycopg.connect(dsn) as raw:
        raw.execute("DELETE FROM users")
    with pytest.raises(NotFound):
        client.usage.log(user, kind="minutes", amount=1)
    assert client.usage.totals(user) == []


def test_sums_are_exact_and_corrections_subtract(client: Any, user: User) -> None:
    for _ in range(10):
        client.usage.log(user, kind="minutes", amount="0.1", cost="0.1")
    client.usage.log(user, kind="minutes", amount="-0.3", cost="-0.000000001")
    (total,) = client.usage.totals(user)
    assert (total.amount, total.cost) == (Decimal("0.7"), Decimal("0.999999999"))


def test_what_does_not_fit_a_column_is_rounded_half_up(client: Any, user: User) -> None:
    entry = client.usage.log(user, kind="minutes", amount=Decimal(1) / 3, cost="0.0000000005")
    assert (entry.amount, entry.cost) == (Decimal("0.333333"), Decimal("0.000000001"))


def test_the_decimal_context_of_the_caller_changes_nothing(client: Any, user: User) -> None:
    with localcontext(prec=3, rounding=ROUND_DOWN):
        entry = client.usage.log(user, kind="minutes", amount="-99999999999999.9999994", cost="12345678901.0000000005")
    assert (entry.amount, entry.cost) == (Decimal("-99999999999999.999999"), Decimal("12345678901.000000001"))


def test_days_are_those_of_the_users_time_zone(client: Any, user: User, dsn: str) -> None:
    client.quotas.set_time_zone(user, "America/New_York")
    # New York is 5 hours behind UTC, and 4 hours from 03:00 on 8 March 2026.
    moments = {
        datetime(2026, 3, 8, 4, 59, tzinfo=UTC): date(2026, 3, 7),
        datetime(2026, 3, 8, 5, 0, tzinfo=UTC): date(2026, 3, 8),
        datetime(2026, 3, 9, 3, 59, tzinfo=UTC): date(2026, 3, 8),
        datetime(2026, 3, 9, 4, 0, tzinfo=UTC): date(2026, 3, 9),
    }
    for moment in moments:
        at(dsn, client.usage.log(user, kind="minutes", amount=1).id, moment)
    found = [(total.day, total.entries) for total in client.usage.totals(user, by="day")]
    assert found == [(date(2026, 3, 7), 1), (date(2026, 3, 8), 2), (date(2026, 3, 9), 1)]
    second, third = list(moments)[1:3]
    part = client.usage.totals(user, by="day", since=second, until=third)
    assert [(total.day, total.entries) for total in part] == [(date(2026, 3, 8), 1)]


def test_sums_by_kind_model_project_and_several(client: Any, user: User, project: Project, dsn: str) -> None:
    client.usage.log(user, kind="seconds", amount=100, cost="0.01", meta={"model": "opus"}, project=project)
    client.usage.log(user, kind="seconds", amount=50, cost="0.02", meta={"model": "sonnet", "project": "label"})
    old = client.usage.log(user, kind="minutes", amount=7, cost="0.03")
    at(dsn, old.id, old.created_at - timedelta(days=3))

    def rows(*names: str, **ask: Any) -> set[Row]:
        totals = client.usage.totals(user, **ask)
        return {tuple(getattr(total, name) for name in names) for total in totals}

    assert rows("kind", "amount", "cost") == {
        ("minutes", Decimal(7), Decimal("0.03")),
        ("seconds", Decimal(150), Decimal("0.03")),
    }
    assert rows("model", "kind", "amount", by="model") == {
        ("opus", "seconds", 100),
        ("sonnet", "seconds", 50),
        (None, "minutes", 7),
    }
    assert rows("project", "amount", by="project") == {(str(project.id), 100), ("label", 50), (None, 7)}
    assert rows("day", "model", "project", by="kind") == {(None, None, None)}
    assert len(client.usage.totals(user, by=("day", "model"))) == 3
    days = [total.day for total in client.usage.totals(user, by=["day", "kind"])]
    assert days == sorted(days)
    assert len(set(days)) == 2


def test_a_sum_asks_for_what_is_known(client: Any, user: User) -> None:
    with pytest.raises(InvalidInput) as failure:
        client.usage.totals(user, by="month")
    assert failure.value.field == "by"
    for field in ("since", "until"):
        with pytest.raises(InvalidInput) as failure:
            client.usage.totals(user, **{field: datetime(2026, 3, 8)})  # noqa: DTZ001  # the naive time must be refused
        assert failure.value.field == field


def test_tokens_are_what_the_quotas_count(client: Any, user: User, dsn: str) -> None:
    def hold(**more: Any) -> UUID:
        return client.quotas.reserve(user, tokens=1000, cost="0.5", meta={"model": "opus"}, **more).id

    client.quotas.settle(user, hold(), tokens=300, cost="0.1")
    client.quotas.release(user, hold())
    expired = hold()
    with psycopg.connect(dsn) as raw:
        raw.execute("UPDATE quota_reservations SET expires_at = now() - interval '1 second'")
    # A refusal makes the database charge expired reservations.
    client.quotas.set_limits(user, tokens=1300)
    with pytest.raises(Exception, match="tokens"):
        client.quotas.reserve(user, tokens=5000)
    client.quotas.settle(user, expired, tokens=200, cost="0.2")
    (total,) = client.usage.totals(user, by="model")
    usage = client.quotas.usage(user)
    assert (total.kind, total.model) == ("tokens", "opus")
    assert (total.amount, total.cost) == (usage.tokens_used, usage.cost_used) == (500, Decimal("0.3"))
    # The entries are of the settled and of the expired, corrected reservations. The released one used nothing.
    assert total.entries == 3
