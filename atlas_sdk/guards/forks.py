"""What a forked child must not share with its parent: locks that may be held at the fork, and promises."""

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forked", "tell_of_forks"]


class Forked(Protocol):
    """What begins anew in a forked child."""

    def after_fork(self) -> None:
        """Forget what is the parent's; nothing else runs in the child yet."""
        ...


_told: "WeakSet[Forked]" = WeakSet()


def tell_of_forks(thing: Forked) -> None:
    """Call `after_fork` of this in every child that is forked while it lives."""
    _told.add(thing)


def _after_fork() -> None:
    for thing in list(_told):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
