"""Items that a listener yields: notifications and gaps."""

from attrs import frozen

__all__ = ["Notification", "NotificationGap"]


@frozen(kw_only=True)
class Notification:
    """A message on a channel. The server sends it when the sender's transaction commits."""

    channel: str
    #: At most 7,999 bytes; "" when there is none.
    payload: str
    #: The process id of the sender's server process.
    pid: int


@frozen(kw_only=True)
class NotificationGap:
    """A time without a connection. Messages sent in this time are lost, so look for new work in the tables."""

    #: The seconds during which the listener was not connected.
    seconds: float
