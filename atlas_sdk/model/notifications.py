"""Notifications of a listener."""

from attrs import frozen

__all__ = ["Gap", "Notification"]


@frozen(kw_only=True)
class Notification:
    """A message on a channel, sent when the transaction of its sender was committed."""

    channel: str
    #: At most 7,999 bytes; "" when there is none.
    payload: str
    #: The server's process that served the sender.
    pid: int


@frozen(kw_only=True)
class Gap:
    """The connection was lost and made again: what was sent meanwhile is gone, so look at the tables."""

    #: For how long nothing was heard.
    seconds: float
