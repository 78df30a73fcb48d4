"""Decorated functions with idempotency keys, and what a retry of a call gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from guard_adapter import Both, used

from atlas_sdk import AlreadyExists, InvalidInput
from atlas_sdk.guards import current_guard


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest, dsn: str) -> Iterator[Both]:
    client = Both(request.param, dsn)
    yield client
    client.close()


def decorated(both: Both, guard: Any) -> Any:
    """Return a function that is guarded, called the same way on both faces."""
    if both.kind == "blocking":

        @guard
        def answer(order: str, *, tokens: int = 5) -> Any:
            current_guard().settle(tokens=tokens)
            return current_guard().id

        return answer

    @guard
    async def aanswer(order: str, *, tokens: int = 5) -> Any:
        current_guard().settle(tokens=tokens)
        return current_guard().id

    return lambda *args, **kwargs: both.do(aanswer(*args, **kwargs))


def test_a_key_may_be_found_from_the_arguments(both: Both) -> None:
    user = both.user()
    answer = decorated(both, both.quotas.guard(user, tokens=10, idempotency_key=lambda order, **_: f"order {order}"))
    first, second = answer("1"), answer("2", tokens=7)
    assert first != second
    with pytest.raises(AlreadyExists) as refused:
        answer("1")
    assert refused.value.name == str(first)
    assert used(both, user)[0] == 12


def test_a_function_may_find_no_key_for_some_calls(both: Both) -> None:
    user = both.user()
    answer = decorated(both, both.quotas.guard(user, tokens=10, idempotency_key=lambda order: order or None))
    assert len({answer(""), answer(""), answer("a")}) == 3
    assert used(both, user)[0] == 15


@pytest.mark.parametrize("found", ["", 7, b"a"])
def test_what_a_function_finds_must_be_a_key(both: Both, found: Any) -> None:
    user = both.user()
    answer = decorated(both, both.quotas.guard(user, tokens=10, idempotency_key=lambda _: found))
    with pytest.raises(InvalidInput) as refused:
        answer("1")
    assert refused.value.field == "idempotency_key"
    assert used(both, user)[0] == 0


def test_a_constant_key_is_refused_when_it_decorates(both: Both) -> None:
    guard = both.quotas.guard(both.user(), tokens=10, idempotency_key="order 1")
    with pytest.raises(InvalidInput, match="one idempotency_key per call") as refused:
        decorated(both, guard)
    assert refused.value.field == "idempotency_key"


def test_a_function_is_no_key_of_one_call(both: Both) -> None:
    user = both.user()
    with (
        pytest.raises(InvalidInput, match="in a decorator only") as refused,
        both.guard(user, tokens=10, idempotency_key=lambda: "k"),
    ):
        pytest.fail("it was entered")
    assert refused.value.field == "idempotency_key"
    assert used(both, user)[0] == 0


def test_while_a_try_is_live_another_runs_and_both_are_charged_once(both: Both) -> None:
    user, ran = both.user(), []
    with both.guard(user, tokens=10, idempotency_key="order 1") as first:
        ran.append(first.repeated)
        with both.guard(user, tokens=10, idempotency_key="order 1") as second:
            ran.append(second.repeated)
            second.settle(tokens=4)
        first.settle(tokens=9)
    assert ran == [False, True]
    assert first.settlement.outcome == "repeated"
    assert used(both, user)[0] == 4, "the first settlement to come"
    with pytest.raises(AlreadyExists), both.guard(user, tokens=10, idempotency_key="order 1"):
        pytest.fail("it was entered")
