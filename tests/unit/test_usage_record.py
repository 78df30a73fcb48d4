"""The usage that a guard's body reports, and the settlement that follows."""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest

from atlas_sdk import InvalidInput
from atlas_sdk.guards.usage_record import Outcome, UsageRecord


def test_nothing_said_charges_all_that_was_promised() -> None:
    assert UsageRecord().outcome() == Outcome(tokens=None, cost=None)


def test_nothing_said_may_mean_that_nothing_happened() -> None:
    assert UsageRecord(on_unknown="release").outcome() == Outcome(releases=True)


def test_progress_is_charged_when_nothing_else_is_said() -> None:
    record = UsageRecord()
    record.progress(tokens=120, cost="0.01")
    assert record.outcome() == Outcome(tokens=120, cost=Decimal("0.01"))


def test_progress_is_a_total_that_never_goes_down() -> None:
    record = UsageRecord()
    record.progress(tokens=120, cost="0.01")
    record.progress(tokens=80, cost=1)
    assert record.outcome() == Outcome(tokens=120, cost=Decimal(1))


@pytest.mark.parametrize(("on_unknown", "cost"), [("charge", None), ("release", Decimal())])
def test_an_amount_that_was_not_told_is_unknown_on_its_own(on_unknown: str, cost: Decimal | None) -> None:
    record = UsageRecord(on_unknown=on_unknown)
    record.progress(tokens=120)
    assert record.outcome() == Outcome(tokens=120, cost=cost)


def test_a_settlement_is_the_last_word() -> None:
    record = UsageRecord(on_unknown="release")
    record.progress(tokens=120, cost=1)
    record.settle(tokens=90, cost=0, meta={"model": "m"})
    record.progress(tokens=200, cost=2)
    assert record.outcome() == Outcome(tokens=90, cost=Decimal(), meta={"model": "m"})


def test_none_in_a_settlement_is_unknown_and_not_nothing() -> None:
    record = UsageRecord()
    record.progress(tokens=120)
    record.settle()
    assert record.outcome() == Outcome(tokens=120, cost=None)
    record = UsageRecord()
    record.settle(tokens=0, cost="0")
    assert record.outcome() == Outcome(tokens=0, cost=Decimal())


def test_of_a_released_call_only_progress_is_charged() -> None:
    record = UsageRecord()
    record.release()
    record.release()
    assert record.outcome() == Outcome(releases=True)
    record.progress(tokens=7)
    assert record.outcome() == Outcome(tokens=7, cost=Decimal())


def test_settled_twice_with_the_same_amounts_is_settled_once() -> None:
    record = UsageRecord()
    record.settle(tokens=5, cost="0.10")
    record.settle(tokens=5, cost=Decimal("0.1"))
    assert record.outcome() == Outcome(tokens=5, cost=Decimal("0.1"))


@pytest.mark.parametrize("other", [{"tokens": 6, "cost": 1}, {"tokens": 5, "cost": 2}, {"tokens": 5}])
def test_settled_twice_with_other_amounts_is_refused(other: dict[str, int]) -> None:
    record = UsageRecord()
    record.settle(tokens=5, cost=1)
    with pytest.raises(InvalidInput, match="other amounts"):
        record.settle(**other)
    assert record.outcome() == Outcome(tokens=5, cost=Decimal(1))


def test_settled_and_released_contradict_each_other() -> None:
    record = UsageRecord()
    record.settle(tokens=5)
    with pytest.raises(InvalidInput, match="was settled"):
        record.release()
    record = UsageRecord()
    record.release()
    with pytest.raises(InvalidInput, match="was released"):
        record.settle(tokens=5)


@pytest.mark.parametrize(
    ("field", "amounts"),
    [
        ("tokens", {"tokens": -1}),
        ("tokens", {"tokens": 1.5}),
        ("tokens", {"tokens": True}),
        ("tokens", {"tokens": 10**12 + 1}),
        ("cost", {"cost": "NaN"}),
        ("cost", {"cost": "-0.01"}),
        ("cost", {"cost": 0.1}),
        ("cost", {"cost": "Infinity"}),
        ("cost", {"cost": "a lot"}),
    ],
)
def test_amounts_that_are_none_are_refused_where_they_are_told(field: str, amounts: dict[str, object]) -> None:
    record = UsageRecord()
    for tell in (record.progress, record.settle):
        with pytest.raises(InvalidInput) as caught:
            tell(**amounts)  # type: ignore[operator]
        assert caught.value.field == field
    assert record.outcome() == Outcome()


def test_meta_that_cannot_be_stored_is_refused_where_it_is_told() -> None:
    record = UsageRecord()
    with pytest.raises(InvalidInput, match="not JSON") as caught:
        record.settle(tokens=1, meta={"when": object()})
    assert caught.value.field == "meta"
    assert record.outcome() == Outcome()


def test_meta_is_what_it_was_when_it_was_told() -> None:
    record, meta = UsageRecord(), {"model": "m"}
    record.settle(tokens=1, meta=meta)
    meta["model"] = "other"
    assert record.outcome().meta == {"model": "m"}


def test_threads_lose_no_progress() -> None:
    record = UsageRecord()

    def tell(start: int) -> None:
        for tokens in range(start, 4000, 8):
            record.progress(tokens=tokens)

    threads = [threading.Thread(target=tell, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.outcome().tokens == 3999
