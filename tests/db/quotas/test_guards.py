"""Guards: the counters match the ledger from the reservation to the settlement, and no usage is free."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from guard_adapter import QuotaClient, used

from atlas_sdk import AlreadyExists, InvalidInput, NotFound, QuotaExceeded

# Reports of a body


def test_a_settled_guard_charges_what_was_used(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    with client.guard(user, tokens=400, cost="0.03", meta={"project": "p"}, holder="me") as g:
        assert (g.tokens, g.cost, g.repeated) == (400, Decimal("0.03"), False)
        (hold,) = client.holds(user)
        assert (hold.id, hold.tokens, hold.epoch, hold.holder) == (g.id, 400, g.epoch, "me")
        g.settle(tokens=100, cost=Decimal("0.01"), meta={"model": "m"})
        assert g.settlement is None
        assert len(client.holds(user)) == 1, "nothing is written before the guard is left"
    assert (g.settlement.outcome, g.settlement.tokens, g.settlement.overrun) == ("settled", 100, False)
    assert used(client, user) == (100, Decimal("0.01"))


def test_the_ledger_has_the_meta_of_both_ends(client: QuotaClient, quota_sql: Any) -> None:
    user = client.user()
    with client.guard(user, tokens=1, meta={"project": "p", "model": "guess"}) as g:
        g.settle(tokens=1, meta={"model": "m"})
    found = quota_sql.value("SELECT meta FROM usage_ledger WHERE user_id = %s", user.id)
    assert found == {"project": "p", "model": "m"}


def test_less_is_granted_when_less_is_left(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    with client.guard(user, tokens=700), client.guard(user, tokens=700, min_tokens=200) as g:
        assert g.tokens == 300
        g.settle(tokens=5, cost=0)
    assert used(client, user) == (705, 0)


def test_a_guard_that_does_not_fit_is_not_entered(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    with pytest.raises(QuotaExceeded) as caught, client.guard(user, tokens=1001):
        pytest.fail("it was entered")
    assert (caught.value.dimension, caught.value.remaining) == ("tokens", 1000)
    assert used(client, user) == (0, 0)


def test_a_refused_guard_may_be_tried_again(client: QuotaClient) -> None:
    user = client.user(tokens=10)
    guard = client.quotas.guard(user, tokens=20)
    with pytest.raises(QuotaExceeded), client.entered(guard):
        pass
    client.quotas.set_limits(user, tokens=20)
    with client.entered(guard) as g:
        g.settle(tokens=20)
    assert used(client, user)[0] == 20


def test_left_without_a_word_all_that_was_promised_is_charged(client: QuotaClient) -> None:
    user = client.user()
    with client.guard(user, tokens=400, cost="0.03"):
        pass
    assert used(client, user) == (400, Decimal("0.03"))


def test_left_without_a_word_nothing_is_charged_where_that_was_asked_for(client: QuotaClient) -> None:
    user = client.user()
    with client.guard(user, tokens=400, cost="0.03", on_unknown="release") as g:
        pass
    assert g.settlement.outcome == "released"
    assert used(client, user) == (0, 0)


@pytest.mark.parametrize(("on_unknown", "cost"), [("charge", Decimal("0.03")), ("release", Decimal())])
def test_left_after_progress_that_is_charged(client: QuotaClient, on_unknown: str, cost: Decimal) -> None:
    user = client.user()
    with client.guard(user, tokens=400, cost="0.03", on_unknown=on_unknown) as g:
        g.progress(tokens=120)
        g.progress(tokens=100)
    assert used(client, user) == (120, cost)


def test_a_released_guard_charges_only_what_had_progressed(client: QuotaClient) -> None:
    user = client.user()
    with client.guard(user, tokens=400, cost="0.03") as g:
        g.release()
    assert g.settlement.outcome == "released"
    assert used(client, user) == (0, 0)
    with client.guard(user, tokens=400, cost="0.03") as g:
        g.progress(tokens=7, cost="0.01")
        g.release()
    assert used(client, user) == (7, Decimal("0.01"))


def test_more_than_was_promised_is_charged_and_marked(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    with client.guard(user, tokens=1000) as g:
        g.settle(tokens=1500)
    assert g.settlement.overrun
    assert used(client, user)[0] == 1500


def test_settled_twice_the_first_amounts_hold(client: QuotaClient) -> None:
    user = client.user()
    with client.guard(user, tokens=400) as g:
        g.settle(tokens=100)
        g.settle(tokens=100)
        with pytest.raises(InvalidInput, match="other amounts"):
            g.settle(tokens=99)
    assert used(client, user)[0] == 100


@pytest.mark.parametrize("said", ["nothing", "progress", "settle", "release"])
def test_an_exception_is_passed_on_and_what_was_said_counts(client: QuotaClient, said: str) -> None:
    user = client.user()
    expected = {"nothing": 400, "progress": 120, "settle": 100, "release": 0}[said]
    problem = RuntimeError("the model is gone")
    with pytest.raises(RuntimeError) as caught, client.guard(user, tokens=400) as g:
        if said == "progress":
            g.progress(tokens=120)
        elif said == "settle":
            g.settle(tokens=100)
        elif said == "release":
            g.release()
        raise problem
    assert caught.value is problem
    assert used(client, user)[0] == expected


def test_a_grant_can_grow(client: QuotaClient) -> None:
    user = client.user(tokens=1000, cost=1)
    with client.guard(user, tokens=400, ttl=timedelta(minutes=1)) as g:
        client.do(g.extend(tokens=500, cost="0.5", ttl=timedelta(hours=2)))
        assert (g.tokens, g.cost) == (900, Decimal("0.5"))
        (hold,) = client.holds(user)
        assert (hold.tokens, hold.cost) == (900, Decimal("0.5"))
        assert hold.expires_at > datetime.now(UTC) + timedelta(hours=1)
        with pytest.raises(QuotaExceeded):
            client.do(g.extend(tokens=101))
        assert g.tokens == 900
    assert used(client, user) == (900, Decimal("0.5"))


def test_an_expired_guard_cannot_grow_and_is_corrected_at_its_end(client: QuotaClient, quota_sql: Any) -> None:
    user = client.user(tokens=500)
    with client.guard(user, tokens=400) as g:
        quota_sql.expire(g.id)
        # When another call needs the room, the expired reservation is charged in full.
        with client.guard(user, tokens=100) as other:
            other.settle(tokens=0)
        with pytest.raises(QuotaExceeded), client.guard(user, tokens=101):
            pass
        with pytest.raises(NotFound):
            client.do(g.extend(tokens=1))
        g.settle(tokens=30)
    assert g.settlement.outcome == "corrected"
    assert used(client, user)[0] == 30


# Wrong uses


def test_a_guard_is_for_one_call(client: QuotaClient) -> None:
    user = client.user()
    guard = client.quotas.guard(user, tokens=1)
    with client.entered(guard):
        with pytest.raises(InvalidInput, match="entered already"), client.entered(guard):
            pytest.fail("entered twice")
        assert len(client.holds(user)) == 1
    with pytest.raises(InvalidInput, match="over already"), client.entered(guard):
        pytest.fail("entered twice")
    assert used(client, user)[0] == 1


def test_before_and_after_its_body_a_guard_takes_nothing(client: QuotaClient) -> None:
    guard = client.quotas.guard(client.user(), tokens=1)
    for use in (lambda: guard.tokens, guard.settle, guard.progress, guard.release, lambda: client.do(guard.extend())):
        with pytest.raises(InvalidInput, match="enter the guard first"):
            use()
    with client.entered(guard):
        pass
    for use in (guard.settle, guard.progress, guard.release, lambda: client.do(guard.extend(tokens=1))):
        with pytest.raises(InvalidInput, match="has ended"):
            use()
    assert guard.tokens == 1


def test_unknown_names_and_choices_are_refused_at_once(client: QuotaClient) -> None:
    user = client.user()
    with pytest.raises(TypeError, match="takes no max_tokens; it takes builds, cost"):
        client.quotas.guard(user, max_tokens=1)
    for wrong in ({"on_unknown": "ignore"}, {"idempotency_key": ""}, {"idempotency_key": 7}):
        with pytest.raises(InvalidInput) as caught:
            client.quotas.guard(user, tokens=1, **wrong)
        assert caught.value.field == next(iter(wrong))


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("tokens", {"tokens": -1}),
        ("tokens", {"tokens": 0, "requests": 0}),
        ("min_tokens", {"tokens": 5, "min_tokens": 6}),
        ("cost", {"cost": "NaN"}),
        ("cost", {"cost": 0.5}),
        ("ttl", {"tokens": 1, "ttl": timedelta(hours=25)}),
        ("slots", {"slots": -1}),
    ],
)
def test_wrong_amounts_are_refused_and_reserve_nothing(client: QuotaClient, field: str, ask: dict[str, Any]) -> None:
    user = client.user()
    with pytest.raises(InvalidInput) as caught, client.guard(user, **ask):
        pytest.fail("it was entered")
    assert caught.value.field == field
    assert used(client, user) == (0, 0)


def test_an_unknown_user_is_refused(client: QuotaClient) -> None:
    with pytest.raises(NotFound), client.guard(evolve(client.user(), id=uuid.uuid4()), tokens=1):
        pytest.fail("it was entered")


# Idempotency keys


def test_a_key_whose_call_is_settled_is_refused(client: QuotaClient) -> None:
    user = client.user()
    with client.guard(user, tokens=400, idempotency_key="order-1") as g:
        g.settle(tokens=100)
    with (
        pytest.raises(AlreadyExists, match="settled already") as caught,
        client.guard(user, tokens=400, idempotency_key="order-1"),
    ):
        pytest.fail("entered twice")
    assert (caught.value.kind, caught.value.name) == ("reservation", str(g.id))
    assert used(client, user)[0] == 100


def test_a_key_whose_call_was_released_or_expired_is_refused(client: QuotaClient, quota_sql: Any) -> None:
    user = client.user(tokens=400)
    with client.guard(user, tokens=400, idempotency_key="released") as g:
        g.release()
    expired = client.quotas.reserve(user, tokens=400, reservation_id=uuid.uuid5(user.id, "expired"))
    quota_sql.expire(expired.id)
    with pytest.raises(QuotaExceeded), client.guard(user, tokens=1):
        pass
    for key in ("released", "expired"):
        with (
            pytest.raises(AlreadyExists, match="expired or was released already"),
            client.guard(user, tokens=400, idempotency_key=key),
        ):
            pytest.fail("entered twice")


def test_a_key_whose_call_did_not_end_enters_its_reservation(client: QuotaClient) -> None:
    user = client.user(tokens=400)
    crashed = client.quotas.reserve(user, tokens=400, reservation_id=uuid.uuid5(user.id, "order-1"))
    with client.guard(user, tokens=400, idempotency_key="order-1") as g:
        assert (g.id, g.repeated, g.tokens, g.epoch) == (crashed.id, True, 400, crashed.epoch)
        g.settle(tokens=100)
    assert used(client, user)[0] == 100


def test_keys_belong_to_one_user_and_may_be_uuids(client: QuotaClient) -> None:
    key = uuid.uuid4()
    first, second = client.user(), client.user()
    for user in (first, second):
        with client.guard(user, tokens=4, idempotency_key=key) as g:
            assert not g.repeated
    with pytest.raises(AlreadyExists), client.guard(first, tokens=4, idempotency_key=str(key)):
        pass


def test_no_key_is_no_key(client: QuotaClient) -> None:
    user = client.user()
    for _ in range(2):
        with client.guard(user, tokens=4, idempotency_key=None) as g:
            assert not g.repeated
    assert used(client, user)[0] == 8
