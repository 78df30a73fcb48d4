"""Send short messages to the clients that listen now."""

from uuid import UUID

from atlas_sdk._plan import Plan, context, execute
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput

__all__ = ["channel_name", "channel_prefix", "notify"]

sql = statements("notifications")

#: The longest name of a channel: NAMEDATALEN - 1. The server refuses longer names.
_CHANNEL_BYTES = 63
#: The longest payload: the server's NOTIFY_PAYLOAD_MAX_LENGTH of 8,000, without the NUL at the end.
_PAYLOAD_BYTES = 7999


def channel_prefix(tenant: UUID | None) -> str:
    """Return the prefix of a tenant's channel names in PostgreSQL; it is empty for the platform's channels."""
    return "" if tenant is None else f"{tenant}:"


def channel_name(channel: str, *, tenant: UUID | None) -> str:
    """Return the name that a tenant's or the platform's channel has in PostgreSQL. Raises InvalidInput."""
    prefix = channel_prefix(tenant)
    room = _CHANNEL_BYTES - len(prefix)
    if not channel or "\0" in channel or len(channel.encode("utf-8", "replace")) > room:
        raise InvalidInput(f"the name of a channel must have 1 to {room} bytes here, without NUL", field="channel")
    return prefix + channel


def notify(channel: str, payload: str = "") -> Plan[None]:
    """Send a short message to all clients that listen to this channel now.

    Inside a transaction the message is sent at the commit. A client that acts for one user reaches only that user's
    channels, whose names have up to 26 bytes; `as_user(user).listen(…)` listens to them. The server does not store
    messages for clients that do not listen, and sends equal messages of one transaction once. So let a message name the
    row to read, not the change. Names are case-sensitive. Senders that commit at the same time wait for each other.
    Raises InvalidInput for a payload of more than 7,999 bytes.
    """
    name = channel_name(channel, tenant=(yield from context()).tenant)
    if "\0" in payload or len(payload.encode("utf-8", "replace")) > _PAYLOAD_BYTES:
        raise InvalidInput(f"a payload must have at most {_PAYLOAD_BYTES} bytes, without NUL", field="payload")
    yield from execute(sql["send"], channel=name, payload=payload)
