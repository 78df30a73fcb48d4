"""Notifications: short messages to whoever listens now."""

from uuid import UUID

from atlas_sdk._plan import Plan, context, execute
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput

__all__ = ["channel_name", "channel_prefix", "notify"]

sql = statements("notifications")

#: NAMEDATALEN - 1: the server refuses longer ones.
_CHANNEL_BYTES = 63
#: NOTIFY_PAYLOAD_MAX_LENGTH is 8,000, with the NUL at its end.
_PAYLOAD_BYTES = 7999


def channel_prefix(tenant: UUID | None) -> str:
    """Return what the names of a tenant's channels begin with in PostgreSQL; nothing for those of the platform."""
    return "" if tenant is None else f"{tenant}:"


def channel_name(channel: str, *, tenant: UUID | None) -> str:
    """Return what PostgreSQL calls a channel. Raises InvalidInput for what is none."""
    prefix = channel_prefix(tenant)
    room = _CHANNEL_BYTES - len(prefix)
    if not channel or "\0" in channel or len(channel.encode("utf-8", "replace")) > room:
        raise InvalidInput(f"a channel's name has 1 to {room} bytes here, without NUL", field="channel")
    return prefix + channel


def notify(channel: str, payload: str = "") -> Plan[None]:
    """Send a short message to all who listen to this channel now; in a transaction, when that is committed.

    A client that acts for one user reaches the channels of that user alone, whose names have up to 26 bytes:
    `as_user(user).listen(…)` hears them. Nobody keeps a message for those who do not listen, and equal ones of one
    transaction are sent once: let it say what to look at, not what happened. Upper and lower case matter in names.
    Senders that commit at the same time wait for each other. Raises InvalidInput for a payload of more than 7,999
    bytes.
    """
    name = channel_name(channel, tenant=(yield from context()).tenant)
    if "\0" in payload or len(payload.encode("utf-8", "replace")) > _PAYLOAD_BYTES:
        raise InvalidInput(f"a payload has at most {_PAYLOAD_BYTES} bytes, without NUL", field="payload")
    yield from execute(sql["send"], channel=name, payload=payload)
