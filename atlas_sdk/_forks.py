"""One registry of the objects that must start anew in a forked child.

A child has a copy of every object, but none of the parent's threads. A lock that another thread held at the fork stays
locked for ever, and a connection or a reservation still belongs to the parent.
"""

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["ForkAware", "process", "reset_in_children"]


class ForkAware(Protocol):
    """An object that holds locks or resources of one process."""

    def after_fork(self) -> None:
        """Start anew in a forked child. Runs before any other thread of the child."""
        ...


class _Process:
    """The current process."""

    #: A number that differs between a process and its forked children. Unlike process ids it is never reused.
    generation = 0


process = _Process()
_registered: "WeakSet[ForkAware]" = WeakSet()


def reset_in_children(thing: ForkAware) -> None:
    """Call `after_fork` of this object in every child that is forked while the object lives."""
    _registered.add(thing)


def _after_fork() -> None:
    process.generation += 1
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
