"""Objects that a forked child makes anew."""

from __future__ import annotations

import os
import warnings
from threading import Lock

from atlas_sdk import _forks


class Locked:
    def __init__(self) -> None:
        self.after_fork()
        _forks.reset_in_children(self)

    def after_fork(self) -> None:
        self.lock = Lock()


def in_child(check: object) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads
        child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)  # type: ignore[operator]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_has_a_lock_of_its_own_and_the_parent_keeps_its_own() -> None:
    thing = Locked()
    with thing.lock:
        assert in_child(lambda: thing.lock.acquire(blocking=False)) == 0
        assert thing.lock.locked()


def test_a_child_of_a_child_is_another_process_too() -> None:
    here = _forks.process.generation
    assert in_child(lambda: _forks.process.generation != here) == 0
    assert in_child(lambda: in_child(lambda: _forks.process.generation == here + 2) == 0) == 0
    assert _forks.process.generation == here


def test_what_is_gone_is_not_kept_for_the_children() -> None:
    thing = Locked()
    before = len(_forks._registered)
    del thing
    assert len(_forks._registered) == before - 1
