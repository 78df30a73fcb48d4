"""The subscriptions of waiting calls to notifications. No I/O; both kinds of clients share them.

A notification wakes the calls of its channel whose name is its payload. A call is also woken when the connection begins
to listen to its channel, because earlier notifications are lost: the call must look again then.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from psycopg import sql

from atlas_sdk._drive.listen_state import ListenState
from atlas_sdk.model.notifications import Notification

__all__ = ["Subscription", "Subscriptions", "commands"]


class _Event(Protocol):
    def set(self) -> None: ...
    def clear(self) -> None: ...


E = TypeVar("E", bound=_Event)


class Subscription(Generic[E]):
    """A call that waits for the notifications of one channel with one payload."""

    def __init__(self, channel: str, name: str, event: E) -> None:
        self.channel = channel
        self.name = name
        self.event = event
        #: True while notifications arrive.
        self.is_listening = False


class Subscriptions(Generic[E]):
    """The subscriptions of a client, and the channels that its connection listens to. No I/O."""

    def __init__(self) -> None:
        self._by_channel: dict[str, set[Subscription[E]]] = {}
        self._listening: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_channel)

    def add(self, subscription: Subscription[E]) -> None:
        """Add a call. If the connection listens to its channel already, wake it: it must look once after this."""
        self._by_channel.setdefault(subscription.channel, set()).add(subscription)
        if subscription.channel in self._listening:
            self._heard(subscription)

    def remove(self, subscription: Subscription[E]) -> None:
        """Remove a call."""
        others = self._by_channel[subscription.channel]
        others.discard(subscription)
        if not others:
            del self._by_channel[subscription.channel]

    def changes(self) -> tuple[list[str], list[str]]:
        """Return the channels to listen to from now on, and those to listen to no more."""
        wanted = self._by_channel.keys()
        return sorted(wanted - self._listening), sorted(self._listening - wanted)

    def changed(self, begun: Iterable[str], ended: Iterable[str]) -> None:
        """Note that the connection listens to other channels, and wake the calls of the new ones."""
        self._listening = self._listening.difference(ended).union(begun)
        for channel in begun:
            for subscription in self._by_channel.get(channel, ()):
                self._heard(subscription)

    @staticmethod
    def _heard(subscription: Subscription[E]) -> None:
        subscription.is_listening = True
        subscription.event.set()

    def lost(self) -> None:
        """Note that the connection listens to nothing any more."""
        self._listening = set()
        for subscriptions in self._by_channel.values():
            for subscription in subscriptions:
                subscription.is_listening = False

    def received(self, state: ListenState) -> None:
        """Wake the calls that the received notifications are for."""
        while (found := state.take()) is not None:
            if isinstance(found, Notification):
                for subscription in self._by_channel.get(found.channel, ()):
                    if subscription.name == found.payload:
                        subscription.event.set()

    def wake_all(self) -> None:
        """Wake all calls."""
        for subscriptions in self._by_channel.values():
            for subscription in subscriptions:
                subscription.event.set()


def commands(begun: Sequence[str], ended: Sequence[str]) -> sql.Composed:
    """Return the commands that change the channels of a connection."""
    listens = [sql.SQL("LISTEN {}").format(sql.Identifier(channel)) for channel in begun]
    return sql.SQL("; ").join(listens + [sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)) for channel in ended])
