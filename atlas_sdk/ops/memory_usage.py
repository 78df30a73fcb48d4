"""The memory limit of a user: a soft one, which is reported, or a hard one, which refuses.

Losing memory is worse than storing it, so a limit is soft unless a platform makes it hard.
"""

from uuid import UUID

from atlas_sdk._plan import Plan, atomic, execute, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotFound, QuotaExceeded
from atlas_sdk.model.blobs import Blob
from atlas_sdk.model.memory_usage import LEVELS, MemoryUsage
from atlas_sdk.model.users import User
from atlas_sdk.ops import events

__all__ = ["lock_memory_limit", "memory", "record_memory_threshold", "refuse", "tell"]

sql = statements("memory_usage")


def memory(user: User) -> Plan[MemoryUsage]:
    """Return what the contents of the user's memory take in the database, and the limit. Raises NotFound.

    Every content counts once, in the bytes that are stored. Contents are added up anew: about a millisecond for a
    thousand of them.
    """
    found = yield from one_or_none(sql["usage"], MemoryUsage, user_id=user.id, always=True)
    if found is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    return found


def record_memory_threshold(user: User) -> Plan[None]:
    """Record the event "quota.memory" when 80 or 100 per cent of the limit were passed since the last call.

    Once for each, and again after it was below at a call. `memory.capture` does this on its own; call it now and then
    where single files are stored.
    """
    yield from tell(user.id)


def tell(user_id: UUID) -> Plan[None]:
    """As `record_memory_threshold`, by the user's id."""
    now = yield from one_or_none(sql["usage"], MemoryUsage, user_id=user_id, always=False)
    if now is not None and now.level != now.told:
        yield from _tell(user_id, now)


@atomic
def _tell(user_id: UUID, now: MemoryUsage) -> Plan[None]:
    if not (yield from execute(sql["set_level"], user_id=user_id, level=now.level, told=now.told)):
        # Somebody else tells of it.
        return
    for level in LEVELS:
        if now.told < level <= now.level:
            meta = {"percent": level, "bytes": now.bytes, "limit": now.limit, "hard": now.hard}
            yield from events.record("quota.memory", user_id=user_id, meta=meta)


def lock_memory_limit(user_id: UUID) -> Plan[None]:
    """Begin a transaction that may store several contents: where the limit is hard, one at a time does so."""
    yield from execute(sql["turn"], user_id=user_id)


def refuse(user_id: UUID, blob: Blob) -> Plan[None]:
    """Raise QuotaExceeded when a hard limit keeps this content out."""
    found = yield from one_or_none(sql["refusal"], MemoryUsage, user_id=user_id, sha256=blob.sha256, data=blob.data)
    if found is not None:
        raise QuotaExceeded(
            dimension="memory_bytes",
            asked=len(blob.data or b""),
            remaining=found.remaining or 0,
            limit=found.limit,
        )
