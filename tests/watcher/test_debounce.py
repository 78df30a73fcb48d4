"""The times at which files are due, without a clock."""

import itertools
import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.debounce import ChangeKind, Debouncer, Due, Key, Timing

PROJECT = UUID(int=1)
#: An action, a file, a kind of change, and the time that passes before.
Step = tuple[str, int, ChangeKind, float]
KEY = (PROJECT, "CLAUDE.md")
TIMING = Timing()


def taken(debouncer: Debouncer, now: float) -> Due:
    """Return the files that are due."""
    due = debouncer.pop(now)
    assert due is not None
    return due


@pytest.mark.parametrize(
    ("change", "wait_s"),
    [(ChangeKind.CLOSED, 0.05), (ChangeKind.CHANGED, 0.25), (ChangeKind.VANISHED, 0.6), (ChangeKind.FOUND, 0)],
)
def test_each_kind_of_change_has_its_wait(change: ChangeKind, wait_s: float) -> None:
    debouncer = Debouncer(TIMING)
    assert debouncer.mark(KEY, change, 100.0) == 100 + wait_s
    assert debouncer.pop(100 + wait_s - 0.001) is None
    due = taken(debouncer, 100 + wait_s)
    assert (due.key, due.change) == (KEY, change)
    assert debouncer.pop(math.inf) is None


def test_a_close_after_writes_makes_it_earlier() -> None:
    debouncer = Debouncer(TIMING)
    debouncer.mark(KEY, ChangeKind.CHANGED, 0.0)
    debouncer.mark(KEY, ChangeKind.CLOSED, 0.01)
    assert debouncer.next_at() == pytest.approx(0.06)


def test_a_name_that_comes_back_is_not_vanished() -> None:
    debouncer = Debouncer(TIMING)
    debouncer.mark(KEY, ChangeKind.VANISHED, 0.0)
    debouncer.mark(KEY, ChangeKind.CHANGED, 0.3)
    assert taken(debouncer, 0.6).change is ChangeKind.CHANGED


def test_an_endless_writer_is_read_every_two_seconds() -> None:
    debouncer = Debouncer(TIMING)
    read_at = []
    for step in range(1000):
        now = step / 100
        debouncer.mark(KEY, ChangeKind.CHANGED, now)
        if debouncer.pop(now) is not None:
            read_at.append(now)
    assert len(read_at) == 4
    assert max(b - a for a, b in itertools.pairwise([0.0, *read_at])) <= 2.02


def test_a_scan_does_not_hurry_a_writer() -> None:
    debouncer = Debouncer(TIMING)
    debouncer.mark(KEY, ChangeKind.CHANGED, 0.0)
    assert debouncer.mark(KEY, ChangeKind.FOUND, 0.1) == 0.25


def test_a_deletion_waits_although_the_writer_was_endless() -> None:
    debouncer = Debouncer(TIMING)
    debouncer.mark(KEY, ChangeKind.CHANGED, 0.0)
    assert debouncer.mark(KEY, ChangeKind.VANISHED, 1.9) == 2.5


def test_what_was_marked_meanwhile_stands_when_something_is_put_back() -> None:
    debouncer = Debouncer(TIMING)
    debouncer.mark(KEY, ChangeKind.FOUND, 0.0)
    due = taken(debouncer, 0.0)
    debouncer.mark(KEY, ChangeKind.VANISHED, 0.1)
    debouncer.put_back(due, 0.1)
    assert debouncer.pop(0.5) is None
    assert taken(debouncer, 0.7).change is ChangeKind.VANISHED


def test_a_forgotten_project_is_never_due() -> None:
    debouncer = Debouncer(TIMING)
    debouncer.mark(KEY, ChangeKind.CLOSED, 0.0)
    debouncer.mark((UUID(int=2), "CLAUDE.md"), ChangeKind.CLOSED, 0.0)
    debouncer.forget(PROJECT)
    assert taken(debouncer, math.inf).key[0] == UUID(int=2)
    assert debouncer.pop(math.inf) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["mark", "pop", "put back"]),
        st.integers(0, 3),
        st.sampled_from(ChangeKind),
        st.floats(0, 1, allow_nan=False),
    ),
    max_size=120,
)


@given(STEPS)
def test_the_table_agrees_with_a_plain_dict(steps: list[Step]) -> None:
    debouncer, now = Debouncer(TIMING), 0.0
    model: dict[Key, float] = {}
    popped: list[Due] = []
    for action, number, change, passed in steps:
        now += passed
        key = (PROJECT, str(number))
        if action == "mark":
            model[key] = debouncer.mark(key, change, now)
        elif action == "put back" and popped:
            debouncer.put_back(popped[-1], now + passed)
            model.setdefault(popped[-1].key, now + passed)
        else:
            due = debouncer.pop(now)
            first = min(model.values(), default=math.inf)
            assert (due is None) == (first > now)
            if due is not None:
                assert due.at == first == model.pop(due.key)
                popped.append(due)
        assert debouncer.next_at() == (min(model.values()) if model else None)
        assert len(debouncer) == len(model)
    left = [taken(debouncer, math.inf) for _ in range(len(model))]
    assert {due.key for due in left} == model.keys()
    assert debouncer.pop(math.inf) is None


def test_a_busy_writer_does_not_grow_the_table() -> None:
    debouncer = Debouncer(TIMING)
    for step in range(5000):
        debouncer.mark(KEY, ChangeKind.CHANGED, step / 100)
        debouncer.mark(KEY, ChangeKind.CLOSED, step / 100)
        debouncer.pop(step / 100 + 0.06)
    assert len(debouncer._heap) < 50
