"""Statistics of a client's connection pool."""

from attrs import frozen

__all__ = ["PoolStats"]


@frozen(kw_only=True)
class PoolStats:
    """The connections of one client at one moment, and counts since it was opened.

    Reading them takes microseconds and sends nothing to the server. A forked child begins at 0. The connections of
    listeners are not counted. The operations of `quotas` have connections of their own, which `quotas` counts.
    """

    #: Connections that are open or being opened.
    size: int
    #: The upper bound of `size`.
    size_max: int
    #: Open connections that nobody uses now.
    idle: int
    #: Connections in use or being opened.
    in_use: int
    #: Callers that wait for a connection now.
    waiting: int
    #: Requests for a connection.
    requests: int
    #: Requests that had to wait: for another caller's connection, or until a new one was open.
    waits: int
    #: Seconds that requests have waited, in all.
    waited_s: float
    #: Requests that failed: no connection came free in time, or none could be opened.
    refused: int
    #: Seconds that connections were in use, in all.
    used_s: float
    #: Connections opened.
    opened: int
    #: Seconds spent on opening connections, in all.
    opening_s: float
    #: Failed attempts to open a connection.
    failed: int
    #: Connections found dead when they were checked out or returned.
    lost: int
    #: The connections of `atlas.quotas`. None in these statistics themselves.
    quotas: "PoolStats | None" = None
