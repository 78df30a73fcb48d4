"""Notifications: short messages to whoever listens now."""

from atlas_sdk._plan import Plan, execute
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput

__all__ = ["checked_channel", "notify"]

sql = statements("notifications")

#: NAMEDATALEN - 1: the server refuses longer ones.
_CHANNEL_BYTES = 63
#: NOTIFY_PAYLOAD_MAX_LENGTH is 8,000, with the NUL at its end.
_PAYLOAD_BYTES = 7999


def checked_channel(channel: str) -> str:
    """Return a channel's name. Raises InvalidInput for what is none."""
    if not channel or "\0" in channel or len(channel.encode("utf-8", "replace")) > _CHANNEL_BYTES:
        raise InvalidInput(f"a channel's name has 1 to {_CHANNEL_BYTES} bytes, without NUL", field="channel")
    return channel


def notify(channel: str, payload: str = "") -> Plan[None]:
    """Send a short message to all who listen to this channel now; in a transaction, when that is committed.

    Nobody keeps it for those who do not listen, and equal ones of one transaction are sent once: let it say what to
    look at, not what happened. Upper and lower case matter in names. Senders that commit at the same time wait for
    each other. Raises InvalidInput for a payload of more than 7,999 bytes.
    """
    name = checked_channel(channel)
    if "\0" in payload or len(payload.encode("utf-8", "replace")) > _PAYLOAD_BYTES:
        raise InvalidInput(f"a payload has at most {_PAYLOAD_BYTES} bytes, without NUL", field="payload")
    yield from execute(sql["send"], channel=name, payload=payload)
