"""Allocate ports to previews, for the operations in `previews`. Live previews of one machine never share a port.

Callers lock the preview's row first, so one preview never takes two ports at once.
"""

from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, execute, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, PortsExhausted
from atlas_sdk.model.previews import Preview
from atlas_sdk.ops.amounts import count
from atlas_sdk.text import quoted

__all__ = ["PORTS", "allocate", "checked", "release", "take"]

sql = statements("ports")

#: The default range: below the ports that Linux uses for outgoing connections, 32768 and up (ip_local_port_range).
PORTS = range(20000, 30000)
_PORT_MAX = 65535


@frozen(kw_only=True)
class _Taken:
    port: int
    user_id: UUID
    preview_id: UUID


def _port(*, port: int | None) -> int | None:
    return port


def checked(name: str, port: int | None) -> int | None:
    """Return the port if it is valid, or None for None. Raises InvalidInput."""
    return None if port is None else count(name, port, _PORT_MAX, least=1)


def allocate(preview: Preview, ports: range) -> Plan[int]:
    """Return the port of a preview; if it has none, allocate one. Raises PortsExhausted, InvalidInput."""
    if not ports or ports.step != 1 or ports[0] < 1 or ports[-1] > _PORT_MAX:
        sentence = f"ports must be a range within 1 to {_PORT_MAX}, in steps of 1, not {quoted(ports)}"
        raise InvalidInput(sentence, field="ports")
    held = yield from _held(preview)
    if held is not None:
        return held
    port = yield from _take(preview, ports[0], ports[-1])
    if port is None:
        raise PortsExhausted(first=ports[0], last=ports[-1], machine=preview.machine)
    return port


def take(preview: Preview, port: int) -> Plan[None]:
    """Give a preview this port in place of its present one. Raises AlreadyExists."""
    held = yield from _held(preview)
    if held != port and (yield from _take(preview, port, port)) is None:
        raise AlreadyExists(f"another live preview has port {port} on that machine", kind="port", name=str(port))


def release(preview: Preview) -> Plan[bool]:
    """Free the port of a preview; return True if it had one."""
    return bool((yield from execute(sql["release"], user_id=preview.user_id, preview_id=preview.id)))


def _held(preview: Preview) -> Plan[int | None]:
    keys = {"user_id": preview.user_id, "preview_id": preview.id, "machine": preview.machine}
    found = yield from many(sql["held"], _port, **keys)
    return found[0] if found else None


def _take(preview: Preview, first: int, last: int) -> Plan[int | None]:
    asked = {"user_id": preview.user_id, "preview_id": preview.id, "machine": preview.machine}
    (port,) = yield from many(sql["take"], _port, first=first, last=last, **asked)
    if port is None and (yield from _sweep(preview.machine, first, last)):
        (port,) = yield from many(sql["take"], _port, first=first, last=last, **asked)
    return port


def _sweep(machine: str, first: int, last: int) -> Plan[int]:
    """Free the ports of previews whose rows were deleted with plain SQL; return how many."""
    taken = yield from many(sql["taken"], _Taken, machine=machine, first=first, last=last)

    def id_of(*, id: UUID) -> UUID:  # noqa: A002  # the column's name
        return id

    found = yield from many(
        sql["living"],
        id_of,
        user_ids=list({row.user_id for row in taken}),
        preview_ids=[row.preview_id for row in taken],
    )
    living = set(found)
    dead = [row for row in taken if row.preview_id not in living]
    return (
        yield from execute(
            sql["free"],
            machine=machine,
            ports=[row.port for row in dead],
            preview_ids=[row.preview_id for row in dead],
        )
    )
