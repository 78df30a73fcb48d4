"""Guards: between the reservation and the settlement, the counters match the ledger and nothing is free."""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from guard_adapter import Both, used
from patience import PATIENCE_S

from atlas_sdk import AlreadyExists, Atlas, InvalidInput, NotFound, QuotaExceeded, current_guard


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


# The guard of the moment


def test_the_innermost_guard_is_the_current_one(both: Both) -> None:
    with pytest.raises(InvalidInput, match="no guard is entered"):
        current_guard()
    if both.kind == "blocking":
        user = both.user()
        with both.guard(user, tokens=1) as outer:
            assert current_guard() is outer
            with both.guard(user, tokens=1) as inner:
                assert current_guard() is inner
            assert current_guard() is outer
        with pytest.raises(InvalidInput, match="no guard is entered"):
            current_guard()


def test_guards_of_threads_are_their_own(atlas: Atlas) -> None:
    user = atlas.users.create("threads@example.com")
    meet = threading.Barrier(8, timeout=PATIENCE_S)

    def call(number: int) -> bool:
        with atlas.quotas.guard(user, tokens=100) as g:
            meet.wait()
            mine = current_guard() is g
            g.settle(tokens=number)
        return mine

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(call, range(8)))
    usage = atlas.quotas.usage(user)
    assert (usage.tokens_used, usage.tokens_held) == (sum(range(8)), 0)
    assert atlas.quotas.verify(user).balanced


def test_one_guard_entered_by_two_threads_is_entered_once(atlas: Atlas) -> None:
    user = atlas.users.create("once@example.com")
    guard = atlas.quotas.guard(user, tokens=1)
    meet, leave = threading.Barrier(4, timeout=PATIENCE_S), threading.Event()

    def enter() -> bool:
        meet.wait()
        try:
            with guard:
                leave.wait(PATIENCE_S)
        except InvalidInput:
            leave.set()
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        entered = [threads.submit(enter) for _ in range(4)]
        assert sum(one.result() for one in entered) == 1
    assert atlas.quotas.usage(user).tokens_used == 1


def test_a_forked_child_leaves_the_guard_to_its_parent(atlas: Atlas) -> None:
    user = atlas.users.create("fork@example.com")
    with atlas.quotas.guard(user, tokens=400) as g:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
            child = os.fork()
        if child == 0:
            g.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(atlas.quotas.reservations(user)) == 1
        g.settle(tokens=3)
    assert g.settlement is not None
    assert g.settlement.outcome == "settled"
    assert atlas.quotas.usage(user).tokens_used == 3


# Decorators


def test_every_call_of_a_decorated_function_has_its_own_guard(atlas: Atlas) -> None:
    user = atlas.users.create("decorated@example.com")
    seen = []

    @atlas.quotas.guard(user, tokens=40)
    def ask(prompt: str, *, answer: str) -> str:
        """Ask."""
        g = current_guard()
        seen.append(g)
        g.settle(tokens=len(prompt))
        return prompt + answer

    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert [ask("why", answer="!"), ask("how", answer="?")] == ["why!", "how?"]
    assert seen[0] is not seen[1]
    assert seen[0].id != seen[1].id
    assert atlas.quotas.usage(user).tokens_used == 6
    with pytest.raises(TypeError):
        ask()  # type: ignore[call-arg]
    assert atlas.quotas.verify(user).balanced


def test_a_decorated_function_that_is_refused_is_not_called(both: Both) -> None:
    user = both.user(tokens=10)
    called = []

    if both.kind == "blocking":

        @both.quotas.guard(user, tokens=11)
        def ask() -> None:
            called.append(1)
    else:

        @both.quotas.guard(user, tokens=11)
        async def ask() -> None:
            called.append(1)

    with pytest.raises(QuotaExceeded):
        both.do(ask())
    assert called == []


def test_the_payer_may_be_found_from_the_arguments(both: Both) -> None:
    payers = {"ada": both.user(), "bob": both.user()}

    def payer(name: str, **_: object) -> Any:
        return payers[name]

    guard = both.quotas.guard(payer, tokens=40)
    if both.kind == "blocking":

        @guard
        def ask(name: str, *, tokens: int) -> str:
            current_guard().settle(tokens=tokens)
            return name
    else:

        @guard
        async def ask(name: str, *, tokens: int) -> str:
            current_guard().settle(tokens=tokens)
            return name

    assert [both.do(ask("ada", tokens=1)), both.do(ask("bob", tokens=2))] == ["ada", "bob"]
    assert [both.usage(user).tokens_used for user in payers.values()] == [1, 2]
    with pytest.raises(InvalidInput, match="in a decorator only"), both.entered(guard):
        pytest.fail("nobody pays")


def test_functions_of_the_wrong_kind_are_refused_when_they_are_decorated(both: Both) -> None:
    async def awaited() -> None: ...

    def plain() -> None: ...

    def items() -> Iterator[int]:
        yield 1

    async def awaited_items() -> Any:
        yield 1

    class Awaited:
        async def __call__(self) -> None: ...

    right, wrong = (plain, [awaited, Awaited()]) if both.kind == "blocking" else (awaited, [plain])
    guard = both.quotas.guard(both.user(), tokens=1)
    for function in (*wrong, items, awaited_items):
        with pytest.raises(TypeError, match="guard"):
            guard(function)
    both.do(guard(right)())
