"""A client's connections: how many there are, and what became of those who asked for one."""

from attrs import frozen

__all__ = ["PoolStats"]


@frozen(kw_only=True)
class PoolStats:
    """The connections of one client at one moment, and counts since it was opened.

    Reading it costs microseconds and asks no server. A forked child begins at 0. Listeners have connections of their
    own, which are not counted.
    """

    #: Connections that are open or just being made.
    size: int
    #: The most that there will be.
    size_max: int
    #: Of those that are open: who wait for something to do.
    idle: int
    #: Of all: who are used now, or just being made.
    in_use: int
    #: Callers that wait for a connection now.
    waiting: int
    #: How often a connection was asked for.
    requests: int
    #: How many of these had to wait, for another caller's or until one was made, …
    waits: int
    #: … for how many seconds altogether.
    waited_s: float
    #: How many were given up, because none came free in time or none could be made.
    refused: int
    #: For how many seconds connections were used, altogether.
    used_s: float
    #: How many connections were made, …
    opened: int
    #: … in how many seconds altogether.
    opening_s: float
    #: How many attempts to make one failed.
    failed: int
    #: How many connections were found dead, when they were handed out or given back.
    lost: int
