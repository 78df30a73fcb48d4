"""When a file is due, without a clock."""

import itertools
import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.debounce import ChangeKind, Debouncer, Timing

PROJECT = UUID(int=1)
KEY = (PROJECT, "CLAUDE.md")
TIMING = Timing()


@pytest.mark.parametrize(
    ("change", "wait_s"),
    [(ChangeKind.CLOSED, 0.05), (ChangeKind.CHANGED, 0.25), (ChangeKind.VANISHED, 0.6), (ChangeKind.FOUND, 0)],
)
def test_each_kind_of_change_has_its_wait(change, wait_s):
    settle = Debouncer(TIMING)
    assert settle.mark(KEY, change, 100.0) == 100 + wait_s
    assert settle.pop(100 + wait_s - 0.001) is None
    due = settle.pop(100 + wait_s)
    assert (due.key, due.change) == (KEY, change)
    assert settle.pop(math.inf) is None


def test_a_close_after_writes_makes_it_earlier():
    settle = Debouncer(TIMING)
    settle.mark(KEY, ChangeKind.CHANGED, 0.0)
    settle.mark(KEY, ChangeKind.CLOSED, 0.01)
    assert settle.next_at() == pytest.approx(0.06)


def test_a_name_that_comes_back_is_not_vanished():
    settle = Debouncer(TIMING)
    settle.mark(KEY, ChangeKind.VANISHED, 0.0)
    settle.mark(KEY, ChangeKind.CHANGED, 0.3)
    assert settle.pop(0.6).change is ChangeKind.CHANGED


def test_an_endless_writer_is_read_every_two_seconds():
    settle = Debouncer(TIMING)
    read_at = []
    for step in range(1000):
        now = step / 100
        settle.mark(KEY, ChangeKind.CHANGED, now)
        if settle.pop(now) is not None:
            read_at.append(now)
    assert len(read_at) == 4
    assert max(b - a for a, b in itertools.pairwise([0.0, *read_at])) <= 2.02


def test_a_scan_does_not_hurry_a_writer():
    settle = Debouncer(TIMING)
    settle.mark(KEY, ChangeKind.CHANGED, 0.0)
    assert settle.mark(KEY, ChangeKind.FOUND, 0.1) == 0.25


def test_a_deletion_waits_although_the_writer_was_endless():
    settle = Debouncer(TIMING)
    settle.mark(KEY, ChangeKind.CHANGED, 0.0)
    assert settle.mark(KEY, ChangeKind.VANISHED, 1.9) == 2.5


def test_what_was_marked_meanwhile_stands_when_something_is_put_back():
    settle = Debouncer(TIMING)
    settle.mark(KEY, ChangeKind.FOUND, 0.0)
    due = settle.pop(0.0)
    settle.mark(KEY, ChangeKind.VANISHED, 0.1)
    settle.put_back(due, 0.1)
    assert settle.pop(0.5) is None
    assert settle.pop(0.7).change is ChangeKind.VANISHED


def test_a_forgotten_project_is_never_due():
    settle = Debouncer(TIMING)
    settle.mark(KEY, ChangeKind.CLOSED, 0.0)
    settle.mark((UUID(int=2), "CLAUDE.md"), ChangeKind.CLOSED, 0.0)
    settle.forget(PROJECT)
    assert settle.pop(math.inf).key[0] == UUID(int=2)
    assert settle.pop(math.inf) is None


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
def test_the_table_agrees_with_a_plain_dict(steps):
    settle, model, popped, now = Debouncer(TIMING), {}, [], 0.0
    for action, number, change, passed in steps:
        now += passed
        key = (PROJECT, str(number))
        if action == "mark":
            model[key] = settle.mark(key, change, now)
        elif action == "put back" and popped:
            settle.put_back(popped[-1], now + passed)
            model.setdefault(popped[-1].key, now + passed)
        else:
            due = settle.pop(now)
            first = min(model.values(), default=math.inf)
            assert (due is None) == (first > now)
            if due is not None:
                assert due.at == first == model.pop(due.key)
                popped.append(due)
        assert settle.next_at() == (min(model.values()) if model else None)
        assert len(settle) == len(model)
    left = [settle.pop(math.inf) for _ in range(len(model))]
    assert {due.key for due in left} == model.keys()
    assert settle.pop(math.inf) is None


def test_a_busy_writer_does_not_grow_the_table():
    settle = Debouncer(TIMING)
    for step in range(5000):
        settle.mark(KEY, ChangeKind.CHANGED, step / 100)
        settle.mark(KEY, ChangeKind.CLOSED, step / 100)
        settle.pop(step / 100 + 0.06)
    assert len(settle._heap) < 50
