"""Guards around guards: if the inner one is refused, nothing was sent, and the outer one charges nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from guard_adapter import QuotaClient, used

from atlas_sdk import AlreadyExists, AtlasError, IdempotencyConflict, NotFound, QuotaExceeded, User


def users(client: QuotaClient) -> tuple[User, User]:
    """Return a user who pays for the outer guard, and one who may use nothing."""
    return client.user(tokens=1000), client.user(tokens=0)


@pytest.mark.parametrize("lease", [False, True])
def test_a_refused_inner_guard_costs_the_outer_one_nothing(client: QuotaClient, *, lease: bool) -> None:
    user, poor = users(client)
    outer = client.quotas.guard(user, tokens=400, lease=lease)
    with pytest.raises(QuotaExceeded), client.entered(outer), client.guard(poor, tokens=1, lease=lease):
        pytest.fail("it was entered")
    assert outer.settlement.outcome == "released"
    client.quotas.close()
    assert (used(client, user), client.usage_of(user).tokens_held) == ((0, 0), 0)


def test_every_guard_around_a_refused_one_is_released(client: QuotaClient) -> None:
    user, poor = users(client)
    with (
        pytest.raises(QuotaExceeded),
        client.guard(user, tokens=400),
        client.guard(user, tokens=300),
        client.guard(user, tokens=200),
        client.guard(poor, tokens=1),
    ):
        pytest.fail("it was entered")
    assert used(client, user)[0] == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"idempotency_key": "ended"}, AlreadyExists),
        ({"idempotency_key": "ended", "tokens": 2}, IdempotencyConflict),
    ],
)
def test_a_refused_key_counts_too(client: QuotaClient, options: dict[str, Any], error: type[AtlasError]) -> None:
    user = client.user(tokens=1000)
    with client.guard(user, tokens=1, idempotency_key="ended") as first:
        first.settle(tokens=1)
    with (
        pytest.raises(error),
        client.guard(user, tokens=400),
        client.guard(user, **{"tokens": 1, **options}),
    ):
        pytest.fail("it was entered")
    assert used(client, user)[0] == 1


def test_reported_usage_is_charged(client: QuotaClient) -> None:
    user, poor = users(client)
    with pytest.raises(QuotaExceeded), client.guard(user, tokens=400), client.guard(user, tokens=300) as middle:
        middle.progress(tokens=30)
        with client.guard(poor, tokens=1):
            pytest.fail("it was entered")
    # The guard around the one that has used something may have used something as well.
    assert used(client, user)[0] == 430


def test_what_was_released_stays_released(client: QuotaClient) -> None:
    user, poor = users(client)
    with pytest.raises(QuotaExceeded), client.guard(user, tokens=400), client.guard(user, tokens=300) as middle:
        middle.release()
        with client.guard(poor, tokens=1):
            pytest.fail("it was entered")
    assert used(client, user)[0] == 0


def test_whoever_wants_the_charge_gets_it(client: QuotaClient) -> None:
    user, poor = users(client)
    with (
        pytest.raises(QuotaExceeded),
        client.guard(user, tokens=400, on_unknown="charge"),
        client.guard(poor, tokens=1),
    ):
        pytest.fail("it was entered")
    assert used(client, user)[0] == 400


def test_a_refused_extension_is_no_proof(client: QuotaClient) -> None:
    """The call of the inner guard has begun, so the provider may bill it."""
    user = client.user(tokens=1000)
    with pytest.raises(QuotaExceeded), client.guard(user, tokens=400), client.guard(user, tokens=300) as inner:
        client.do(inner.extend(tokens=1000))
    assert used(client, user)[0] == 700


def test_other_errors_are_no_proof(client: QuotaClient) -> None:
    user, poor = users(client)
    with pytest.raises(QuotaExceeded), client.guard(user, tokens=100):
        client.quotas.reserve(poor, tokens=1)
    with pytest.raises(ZeroDivisionError), client.guard(user, tokens=100):
        with suppress(QuotaExceeded), client.guard(poor, tokens=1):
            pytest.fail("it was entered")
        raise ZeroDivisionError
    with pytest.raises(NotFound), client.guard(user, tokens=100):
        client.quotas.settle(user, user.id)
    with client.guard(user, tokens=100), suppress(QuotaExceeded), client.guard(poor, tokens=1):
        pytest.fail("it was entered")
    assert used(client, user)[0] == 400


def test_another_try_of_the_same_call_keeps_the_reservation(client: QuotaClient) -> None:
    user, poor = users(client)
    with client.guard(user, tokens=400, idempotency_key="call 1") as first:
        with (
            pytest.raises(QuotaExceeded),
            client.guard(user, tokens=400, idempotency_key="call 1") as second,
            client.guard(poor, tokens=1),
        ):
            pytest.fail("it was entered")
        assert (second.repeated, second.settlement.tokens) == (True, 400)
        first.settle(tokens=50)
    assert used(client, user)[0] == 400
