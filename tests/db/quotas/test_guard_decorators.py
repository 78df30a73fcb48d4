"""The current guard, in threads and forks, and guards as decorators."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from guard_adapter import QuotaClient
from patience import PATIENCE_S

from atlas_sdk import Atlas, InvalidInput, QuotaExceeded, current_guard

# The current guard


def test_the_innermost_guard_is_the_current_one(client: QuotaClient) -> None:
    with pytest.raises(InvalidInput, match="no guard is entered"):
        current_guard()
    if client.kind == "blocking":
        user = client.user()
        with client.guard(user, tokens=1) as outer:
            assert current_guard() is outer
            with client.guard(user, tokens=1) as inner:
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


def test_a_decorated_function_that_is_refused_is_not_called(client: QuotaClient) -> None:
    user = client.user(tokens=10)
    called = []

    if client.kind == "blocking":

        @client.quotas.guard(user, tokens=11)
        def ask() -> None:
            called.append(1)
    else:

        @client.quotas.guard(user, tokens=11)
        async def ask() -> None:
            called.append(1)

    with pytest.raises(QuotaExceeded):
        client.do(ask())
    assert called == []


def test_the_payer_may_be_found_from_the_arguments(client: QuotaClient) -> None:
    payers = {"ada": client.user(), "bob": client.user()}

    def payer(name: str, **_: object) -> Any:
        return payers[name]

    guard = client.quotas.guard(payer, tokens=40)
    if client.kind == "blocking":

        @guard
        def ask(name: str, *, tokens: int) -> str:
            current_guard().settle(tokens=tokens)
            return name
    else:

        @guard
        async def ask(name: str, *, tokens: int) -> str:
            current_guard().settle(tokens=tokens)
            return name

    assert [client.do(ask("ada", tokens=1)), client.do(ask("bob", tokens=2))] == ["ada", "bob"]
    assert [client.usage_of(user).tokens_used for user in payers.values()] == [1, 2]
    with pytest.raises(InvalidInput, match="in a decorator only"), client.entered(guard):
        pytest.fail("nobody pays")


def test_functions_of_the_wrong_kind_are_refused_when_they_are_decorated(client: QuotaClient) -> None:
    async def awaited() -> None: ...

    def plain() -> None: ...

    def items() -> Iterator[int]:
        yield 1

    async def awaited_items() -> Any:
        yield 1

    class Awaited:
        async def __call__(self) -> None: ...

    right, wrong = (plain, [awaited, Awaited()]) if client.kind == "blocking" else (awaited, [plain])
    guard = client.quotas.guard(client.user(), tokens=1)
    for function in (*wrong, items, awaited_items):
        with pytest.raises(TypeError, match="guard"):
            guard(function)
    client.do(guard(right)())
