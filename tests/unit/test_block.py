"""A block of a lease. Calls never reserve and spend more of it than was granted."""

from __future__ import annotations

import uuid
from decimal import Decimal, localcontext
from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from atlas_sdk.guards.block import Block, dollars, nano_reserved, nano_used

AMOUNTS = st.integers(0, 60)


def granted(tokens: int = 100, nano: int = 100, requests: int = 100, deadline: float = 10.0) -> Block:
    return Block(id=uuid.uuid4(), epoch=1, tokens=tokens, nano=nano, requests=requests, deadline=deadline, used_at=0.0)


@pytest.mark.parametrize(("tokens", "nano", "requests"), [(101, 0, 0), (0, 101, 0), (0, 0, 101)])
def test_call_that_does_not_fit_takes_nothing(tokens: int, nano: int, requests: int) -> None:
    block = granted()
    assert block.take(tokens, nano, requests, 1.0) is False
    assert (block.charge, block.running) == ((0, 0, 0), 0)
    assert block.take(100, 100, 100, 1.0) is True


def test_no_call_is_admitted_from_the_deadline_on() -> None:
    block = granted(deadline=10.0)
    assert block.take(1, 0, 0, 9.99)
    assert not block.take(1, 0, 0, 10.0)
    assert not block.take_more(1, 0, 10.0)
    assert block.take_up_to(5, 1, 0, 0, 10.0) is None


def test_what_a_call_did_not_use_serves_the_next() -> None:
    block = granted(tokens=100)
    assert block.take(100, 0, 1, 0.0)
    assert not block.take(1, 0, 1, 0.0)
    block.give(100, 0, 40, 0)
    assert block.charge == (40, 0, 1)
    assert block.take(60, 0, 1, 0.0)


def test_call_that_uses_more_than_promised_leaves_less_for_the_next() -> None:
    block = granted(tokens=100)
    assert block.take(50, 0, 0, 0.0)
    block.give(50, 0, 120, 0)
    assert block.charge == (120, 0, 0)
    assert not block.take(1, 0, 0, 0.0)


def test_elastic_call_gets_what_is_left_but_no_less_than_its_minimum() -> None:
    block = granted(tokens=100)
    assert block.take(70, 0, 0, 0.0)
    assert block.take_up_to(50, 31, 0, 0, 0.0) is None
    assert block.take_up_to(50, 30, 0, 0, 0.0) == 30
    assert block.charge == (100, 0, 0)


def test_retired_block_is_settled_when_its_last_call_ends() -> None:
    block = granted()
    assert block.take(10, 0, 0, 0.0)
    assert block.take(10, 0, 0, 0.0)
    assert block.retire() is False
    assert block.deadline == -inf
    assert not block.take(1, 0, 0, 0.0)
    assert block.give(10, 0, 10, 0) is False
    assert block.give(10, 0, 5, 0) is True
    assert block.charge == (15, 0, 0)
    assert granted().retire() is True


def test_requests_stay_counted_because_they_limit_attempts() -> None:
    block = granted(requests=1)
    assert block.take(1, 0, 1, 0.0)
    block.give(1, 0, 0, 0)
    assert not block.take(1, 0, 1, 0.0)
    assert block.charge == (0, 0, 1)


def test_block_goes_on_as_a_promise_of_what_its_calls_need() -> None:
    block = granted(tokens=100)
    assert block.take(30, 5, 1, 0.0)
    assert block.take(20, 0, 1, 0.0)
    assert not block.can_move(49, 5)
    block.give(20, 0, 12, 0)
    assert (block.in_use, block.spent_tokens, block.is_mostly_rest) == ((30, 5), 12, True)
    block.extending += 1
    assert not block.can_move(30, 5), "the database is about to add to it"
    block.extending -= 1
    assert block.can_move(30, 5)
    smaller = uuid.uuid4()
    block.move(id=smaller, epoch=7, tokens=30, nano=5)
    assert (block.id, block.epoch, block.charge, block.has_rest) == (smaller, 7, (30, 5, 0), False)
    assert not block.take(0, 0, 0, 0.0)
    assert block.give(30, 5, 9, 1) is True
    assert block.charge == (9, 1, 0)


def test_money_is_exact_whatever_the_context_of_the_application() -> None:
    with localcontext(prec=3):
        assert nano_reserved(Decimal("1.0000000001")) == 1_000_000_001
        assert nano_used(Decimal("1.0000000004")) == 1_000_000_000
        assert nano_used(Decimal("1.0000000005")) == 1_000_000_001
        assert nano_reserved(Decimal("999999999.999999999")) == 999_999_999_999_999_999
        assert dollars(999_999_999_999_999_999) == Decimal("999999999.999999999")
        assert dollars(0) == 0


class BlockMachine(RuleBasedStateMachine):
    """A block, compared with sums over all of its calls."""

    calls = Bundle("calls")

    @initialize(tokens=AMOUNTS, nano=AMOUNTS, requests=AMOUNTS)
    def grant(self, tokens: int, nano: int, requests: int) -> None:
        self.block = granted(tokens, nano, requests)
        self.size = [tokens, nano, requests]
        #: The amounts reserved for running calls, by call, and the amounts used by ended calls.
        self.in_use: dict[int, list[int]] = {}
        self.used = [0, 0, 0]
        self.overran = False
        self.now = 0.0
        self.retired = False

    def rest(self) -> list[int]:
        return [
            size - used - sum(amounts[i] for amounts in self.in_use.values())
            for i, (size, used) in enumerate(zip(self.size, self.used, strict=True))
        ]

    def admits(self) -> bool:
        return self.now < 10 and not self.retired

    @rule(target=calls, asked=st.tuples(AMOUNTS, AMOUNTS, AMOUNTS))
    def take(self, asked: tuple[int, int, int]) -> int | None:
        fits = self.admits() and all(a <= r for a, r in zip(asked, self.rest(), strict=True))
        assert self.block.take(*asked, self.now) is fits
        return self.promise(asked) if fits else None

    @rule(target=calls, asked=AMOUNTS, least=AMOUNTS)
    def take_up_to(self, asked: int, least: int) -> int | None:
        least = min(asked, least)
        rest = self.rest()
        fits = self.admits() and least <= rest[0] and rest[1] >= 0 and rest[2] >= 1
        got = self.block.take_up_to(asked, least, 0, 1, self.now)
        assert got == (min(asked, rest[0]) if fits else None)
        return None if got is None else self.promise((got, 0, 1))

    def promise(self, amounts: tuple[int, int, int]) -> int:
        number = len(self.in_use) + 1000 * sum(self.used)
        while number in self.in_use:
            number += 1
        self.in_use[number] = list(amounts)
        return number

    @rule(call=calls, more=st.tuples(AMOUNTS, AMOUNTS))
    def extend(self, call: int | None, more: tuple[int, int]) -> None:
        if call not in self.in_use:
            return
        fits = self.admits() and all(m <= r for m, r in zip(more, self.rest()[:2], strict=True))
        assert self.block.take_more(*more, self.now) is fits
        if not fits:
            # The database grants the additional amounts for this call, and the block grows by them.
            self.block.grow(*more)
            self.size[0] += more[0]
            self.size[1] += more[1]
        self.in_use[call][0] += more[0]
        self.in_use[call][1] += more[1]

    @rule(call=consumes(calls), used=st.tuples(AMOUNTS, AMOUNTS), over=st.booleans())
    def end(self, call: int | None, used: tuple[int, int], *, over: bool) -> None:
        if call not in self.in_use:
            return
        tokens, nano, requests = self.in_use.pop(call)
        spent = used if over else (min(used[0], tokens), min(used[1], nano))
        self.overran = self.overran or spent[0] > tokens or spent[1] > nano
        last = not self.in_use
        assert self.block.give(tokens, nano, *spent) is (self.retired and last)
        self.used = [self.used[0] + spent[0], self.used[1] + spent[1], self.used[2] + requests]

    @rule(more=st.tuples(AMOUNTS, AMOUNTS), short=st.booleans())
    def move(self, more: tuple[int, int], *, short: bool) -> None:
        promised = self.block.in_use
        assert promised == tuple(sum(amounts[i] for amounts in self.in_use.values()) for i in (0, 1))
        size = [promised[i] + more[i] - short for i in (0, 1)]
        enough = bool(self.in_use) and not short
        assert self.block.can_move(*size) is (bool(self.in_use) and all(size[i] >= promised[i] for i in (0, 1)))
        if not enough:
            return
        spent = self.block.spent_tokens, self.block.spent_nano, self.block.charge[2]
        # The old block is charged these amounts, and the new block is not.
        assert spent[:2] == tuple(self.used[:2])
        assert spent[2] == self.used[2] + sum(amounts[2] for amounts in self.in_use.values())
        self.block.move(id=uuid.uuid4(), epoch=2, tokens=size[0], nano=size[1])
        self.size, self.used, self.retired = [*size, 0], [0, 0, 0], True
        for amounts in self.in_use.values():
            amounts[2] = 0

    @rule(passed=st.floats(0, 4))
    def wait(self, passed: float) -> None:
        self.now += passed

    @rule()
    def retire(self) -> None:
        assert self.block.retire() is (not self.in_use)
        self.retired = True

    @invariant()
    def counts_what_is_spent_and_promised(self) -> None:
        if not hasattr(self, "block"):
            return
        expected = tuple(size - rest for size, rest in zip(self.size, self.rest(), strict=True))
        assert self.block.charge == expected
        assert self.block.running == len(self.in_use)
        if not self.overran:
            assert all(charge <= size for charge, size in zip(self.block.charge, self.size, strict=True))


TestBlockMachine = BlockMachine.TestCase
