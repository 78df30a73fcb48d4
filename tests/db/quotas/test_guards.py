"""Guards: between the reservation and the settlement, the counters match the ledger and nothing is free."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from guard_adapter import Both, used

from atlas_sdk import AlreadyExists, InvalidInput, NotFound, QuotaExceeded


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest, dsn: str) -> Iterator[Both]:
    client = Both(request.param, dsn)
    yield client
    client.close()


# What a body says


def test_a_settled_guard_charges_what_was_used(both: Both) -> None:
    user = both.user(tokens=1000)
    with both.guard(user, tokens=400, cost="0.03", meta={"project": "p"}, holder="me") as g:
        assert (g.tokens, g.cost, g.repeated) == (400, Decimal("0.03"), False)
        (hold,) = both.holds(user)
        assert (hold.id, hold.tokens, hold.epoch, hold.holder) == (g.id, 400, g.epoch, "me")
        g.settle(tokens=100, cost=Decimal("0.01"), meta={"model": "m"})
        assert g.settlement is None
        assert len(both.holds(user)) == 1, "nothing is written before the guard is left"
    assert (g.settlement.outcome, g.settlement.tokens, g.settlement.overrun) == ("settled", 100, False)
    assert used(both, user) == (100, Decimal("0.01"))


def test_the_ledger_has_the_meta_of_both_ends(both: Both, door: Any) -> None:
    user = both.user()
    with both.guard(user, tokens=1, meta={"project": "p", "model": "guess"}) as g:
        g.settle(tokens=1, meta={"model": "m"})
    found = door.value("SELECT meta FROM usage_ledger WHERE user_id = %s", user.id)
    assert found == {"project": "p", "model": "m"}


def test_less_is_granted_when_less_is_left(both: Both) -> None:
    user = both.user(tokens=1000)
    with both.guard(user, tokens=700), both.guard(user, tokens=700, min_tokens=200) as g:
        assert g.tokens == 300
        g.settle(tokens=5, cost=0)
    assert used(both, user) == (705, 0)


def test_a_guard_that_does_not_fit_is_not_entered(both: Both) -> None:
    user = both.user(tokens=1000)
    with pytest.raises(QuotaExceeded) as caught, both.guard(user, tokens=1001):
        pytest.fail("it was entered")
    assert (caught.value.dimension, caught.value.remaining) == ("tokens", 1000)
    assert used(both, user) == (0, 0)


def test_a_refused_guard_may_be_tried_again(both: Both) -> None:
    user = both.user(tokens=10)
    guard = both.quotas.guard(user, tokens=20)
    with pytest.raises(QuotaExceeded), both.entered(guard):
        pass
    both.do(both.quotas.set_limits(user, tokens=20))
    with both.entered(guard) as g:
        g.settle(tokens=20)
    assert used(both, user)[0] == 20


def test_left_without_a_word_all_that_was_promised_is_charged(both: Both) -> None:
    user = both.user()
    with both.guard(user, tokens=400, cost="0.03"):
        pass
    assert used(both, user) == (400, Decimal("0.03"))


def test_left_without_a_word_nothing_is_charged_where_that_was_asked_for(both: Both) -> None:
    user = both.user()
    with both.guard(user, tokens=400, cost="0.03", on_unknown="release") as g:
        pass
    assert g.settlement.outcome == "released"
    assert used(both, user) == (0, 0)


@pytest.mark.parametrize(("on_unknown", "cost"), [("charge", Decimal("0.03")), ("release", Decimal())])
def test_left_after_progress_that_is_charged(both: Both, on_unknown: str, cost: Decimal) -> None:
    user = both.user()
    with both.guard(user, tokens=400, cost="0.03", on_unknown=on_unknown) as g:
        g.progress(tokens=120)
        g.progress(tokens=100)
    assert used(both, user) == (120, cost)


def test_a_released_guard_charges_only_what_had_progressed(both: Both) -> None:
    user = both.user()
    with both.guard(user, tokens=400, cost="0.03") as g:
        g.release()
    assert g.settlement.outcome == "released"
    assert used(both, user) == (0, 0)
    with both.guard(user, tokens=400, cost="0.03") as g:
        g.progress(tokens=7, cost="0.01")
        g.release()
    assert used(both, user) == (7, Decimal("0.01"))


def test_more_than_was_promised_is_charged_and_marked(both: Both) -> None:
    user = both.user(tokens=1000)
    with both.guard(user, tokens=1000) as g:
        g.settle(tokens=1500)
    assert g.settlement.overrun
    assert used(both, user)[0] == 1500


def test_settled_twice_the_first_amounts_hold(both: Both) -> None:
    user = both.user()
    with both.guard(user, tokens=400) as g:
        g.settle(tokens=100)
        g.settle(tokens=100)
        with pytest.raises(InvalidInput, match="other amounts"):
            g.settle(tokens=99)
    assert used(both, user)[0] == 100


@pytest.mark.parametrize("said", ["nothing", "progress", "settle", "release"])
def test_an_exception_is_passed_on_and_what_was_said_counts(both: Both, said: str) -> None:
    user = both.user()
    expected = {"nothing": 400, "progress": 120, "settle": 100, "release": 0}[said]
    problem = RuntimeError("the model is gone")
    with pytest.raises(RuntimeError) as caught, both.guard(user, tokens=400) as g:
        if said == "progress":
            g.progress(tokens=120)
        elif said == "settle":
            g.settle(tokens=100)
        elif said == "release":
            g.release()
        raise problem
    assert caught.value is problem
    assert used(both, user)[0] == expected


def test_a_grant_can_grow(both: Both) -> None:
    user = both.user(tokens=1000, cost=1)
    with both.guard(user, tokens=400, ttl=timedelta(minutes=1)) as g:
        both.do(g.extend(tokens=500, cost="0.5", ttl=timedelta(hours=2)))
        assert (g.tokens, g.cost) == (900, Decimal("0.5"))
        (hold,) = both.holds(user)
        assert (hold.tokens, hold.cost) == (900, Decimal("0.5"))
        assert hold.expires_at > datetime.now(UTC) + timedelta(hours=1)
        with pytest.raises(QuotaExceeded):
            both.do(g.extend(tokens=101))
        assert g.tokens == 900
    assert used(both, user) == (900, Decimal("0.5"))


def test_an_expired_guard_cannot_grow_and_is_corrected_at_its_end(both: Both, door: Any) -> None:
    user = both.user(tokens=500)
    with both.guard(user, tokens=400) as g:
        door.expire(g.id)
        # Its expiry charges it in full when somebody else needs the room.
        with both.guard(user, tokens=100) as other:
            other.settle(tokens=0)
        with pytest.raises(QuotaExceeded), both.guard(user, tokens=101):
            pass
        with pytest.raises(NotFound):
            both.do(g.extend(tokens=1))
        g.settle(tokens=30)
    assert g.settlement.outcome == "corrected"
    assert used(both, user)[0] == 30


# Wrong uses


def test_a_guard_is_for_one_call(both: Both) -> None:
    user = both.user()
    guard = both.quotas.guard(user, tokens=1)
    with both.entered(guard):
        with pytest.raises(InvalidInput, match="entered already"), both.entered(guard):
            pytest.fail("entered twice")
        assert len(both.holds(user)) == 1
    with pytest.raises(InvalidInput, match="over already"), both.entered(guard):
        pytest.fail("entered twice")
    assert used(both, user)[0] == 1


def test_before_and_after_its_body_a_guard_takes_nothing(both: Both) -> None:
    guard = both.quotas.guard(both.user(), tokens=1)
    for use in (lambda: guard.tokens, guard.settle, guard.progress, guard.release, lambda: both.do(guard.extend())):
        with pytest.raises(InvalidInput, match="enter the guard first"):
            use()
    with both.entered(guard):
        pass
    for use in (guard.settle, guard.progress, guard.release, lambda: both.do(guard.extend(tokens=1))):
        with pytest.raises(InvalidInput, match="is over"):
            use()
    assert guard.tokens == 1


def test_unknown_names_and_choices_are_refused_at_once(both: Both) -> None:
    user = both.user()
    with pytest.raises(TypeError, match="takes no max_tokens; it takes builds, cost"):
        both.quotas.guard(user, max_tokens=1)
    for wrong in ({"on_unknown": "ignore"}, {"idempotency_key": ""}, {"idempotency_key": 7}):
        with pytest.raises(InvalidInput) as caught:
            both.quotas.guard(user, tokens=1, **wrong)
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
def test_wrong_amounts_are_refused_and_reserve_nothing(both: Both, field: str, ask: dict[str, Any]) -> None:
    user = both.user()
    with pytest.raises(InvalidInput) as caught, both.guard(user, **ask):
        pytest.fail("it was entered")
    assert caught.value.field == field
    assert used(both, user) == (0, 0)


def test_an_unknown_user_is_refused(both: Both) -> None:
    with pytest.raises(NotFound), both.guard(evolve(both.user(), id=uuid.uuid4()), tokens=1):
        pytest.fail("it was entered")


# Idempotency keys


def test_a_key_whose_call_is_settled_is_refused(both: Both) -> None:
    user = both.user()
    with both.guard(user, tokens=400, idempotency_key="order-1") as g:
        g.settle(tokens=100)
    with (
        pytest.raises(AlreadyExists, match="settled already") as caught,
        both.guard(user, tokens=400, idempotency_key="order-1"),
    ):
        pytest.fail("entered twice")
    assert (caught.value.kind, caught.value.name) == ("reservation", str(g.id))
    assert used(both, user)[0] == 100


def test_a_key_whose_call_was_released_or_expired_is_refused(both: Both, door: Any) -> None:
    user = both.user(tokens=400)
    with both.guard(user, tokens=400, idempotency_key="released") as g:
        g.release()
    expired = both.do(both.quotas.reserve(user, tokens=400, reservation_id=uuid.uuid5(user.id, "expired")))
    door.expire(expired.id)
    with pytest.raises(QuotaExceeded), both.guard(user, tokens=1):
        pass
    for key in ("released", "expired"):
        with (
            pytest.raises(AlreadyExists, match="expired or was released already"),
            both.guard(user, tokens=400, idempotency_key=key),
        ):
            pytest.fail("entered twice")


def test_a_key_whose_call_did_not_end_enters_its_reservation(both: Both) -> None:
    user = both.user(tokens=400)
    crashed = both.do(both.quotas.reserve(user, tokens=400, reservation_id=uuid.uuid5(user.id, "order-1")))
    with both.guard(user, tokens=400, idempotency_key="order-1") as g:
        assert (g.id, g.repeated, g.tokens, g.epoch) == (crashed.id, True, 400, crashed.epoch)
        g.settle(tokens=100)
    assert used(both, user)[0] == 100


def test_keys_belong_to_one_user_and_may_be_uuids(both: Both) -> None:
    key = uuid.uuid4()
    first, second = both.user(), both.user()
    for user in (first, second):
        with both.guard(user, tokens=4, idempotency_key=key) as g:
            assert not g.repeated
    with pytest.raises(AlreadyExists), both.guard(first, tokens=4, idempotency_key=str(key)):
        pass


def test_no_key_is_no_key(both: Both) -> None:
    user = both.user()
    for _ in range(2):
        with both.guard(user, tokens=4, idempotency_key=None) as g:
            assert not g.repeated
    assert used(both, user)[0] == 8
