"""Decorated functions with idempotency keys, and the results of retries."""

from __future__ import annotations

from typing import Any

import pytest
from guard_adapter import QuotaClient, used

from atlas_sdk import AlreadyExists, InvalidInput
from atlas_sdk.guards import current_guard


def decorated(client: QuotaClient, guard: Any) -> Any:
    """Return a guarded function that tests call in the same way for both clients."""
    if client.kind == "blocking":

        @guard
        def answer(order: str, *, tokens: int = 5) -> Any:
            current_guard().settle(tokens=tokens)
            return current_guard().id

        return answer

    @guard
    async def aanswer(order: str, *, tokens: int = 5) -> Any:
        current_guard().settle(tokens=tokens)
        return current_guard().id

    return lambda *args, **kwargs: client.do(aanswer(*args, **kwargs))


def test_a_key_may_be_found_from_the_arguments(client: QuotaClient) -> None:
    user = client.user()
    answer = decorated(
        client, client.quotas.guard(user, tokens=10, idempotency_key=lambda order, **_: f"order {order}")
    )
    first, second = answer("1"), answer("2", tokens=7)
    assert first != second
    with pytest.raises(AlreadyExists) as refused:
        answer("1")
    assert refused.value.name == str(first)
    assert used(client, user)[0] == 12


def test_a_function_may_find_no_key_for_some_calls(client: QuotaClient) -> None:
    user = client.user()
    answer = decorated(client, client.quotas.guard(user, tokens=10, idempotency_key=lambda order: order or None))
    assert len({answer(""), answer(""), answer("a")}) == 3
    assert used(client, user)[0] == 15


@pytest.mark.parametrize("found", ["", 7, b"a"])
def test_what_a_function_finds_must_be_a_key(client: QuotaClient, found: Any) -> None:
    user = client.user()
    answer = decorated(client, client.quotas.guard(user, tokens=10, idempotency_key=lambda _: found))
    with pytest.raises(InvalidInput) as refused:
        answer("1")
    assert refused.value.field == "idempotency_key"
    assert used(client, user)[0] == 0


def test_a_constant_key_is_refused_when_it_decorates(client: QuotaClient) -> None:
    guard = client.quotas.guard(client.user(), tokens=10, idempotency_key="order 1")
    with pytest.raises(InvalidInput, match="one idempotency_key per call") as refused:
        decorated(client, guard)
    assert refused.value.field == "idempotency_key"


def test_a_function_is_no_key_of_one_call(client: QuotaClient) -> None:
    user = client.user()
    with (
        pytest.raises(InvalidInput, match="in a decorator only") as refused,
        client.guard(user, tokens=10, idempotency_key=lambda: "k"),
    ):
        pytest.fail("it was entered")
    assert refused.value.field == "idempotency_key"
    assert used(client, user)[0] == 0


def test_while_a_try_is_live_another_runs_and_both_are_charged_once(client: QuotaClient) -> None:
    user, ran = client.user(), []
    with client.guard(user, tokens=10, idempotency_key="order 1") as first:
        ran.append(first.repeated)
        with client.guard(user, tokens=10, idempotency_key="order 1") as second:
            ran.append(second.repeated)
            second.settle(tokens=4)
        first.settle(tokens=9)
    assert ran == [False, True]
    assert first.settlement.outcome == "repeated"
    assert used(client, user)[0] == 4, "the first settlement to come"
    with pytest.raises(AlreadyExists), client.guard(user, tokens=10, idempotency_key="order 1"):
        pytest.fail("it was entered")
