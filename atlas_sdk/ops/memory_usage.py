"""Enforce the memory limit of a user. A soft limit only records an event; a hard limit refuses new content.

A limit is soft unless a platform makes it hard, because losing memory is worse than storing too much.
"""

from uuid import UUID

from atlas_sdk._plan import Plan, atomic, execute, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotFound, QuotaExceeded
from atlas_sdk.model.blobs import Blob
from atlas_sdk.model.memory_usage import LEVELS, MemoryUsage
from atlas_sdk.model.users import User
from atlas_sdk.ops import events

__all__ = ["lock_memory_limit", "memory", "record_memory_threshold", "refuse", "tell"]

sql = statements("memory_usage")


def memory(user: User) -> Plan[MemoryUsage]:
    """Return the stored size of a user's memory contents, and the limit. Raises NotFound.

    Every content counts once, by its stored bytes. The call adds them up: about a millisecond per thousand contents.
    """
    found = yield from one_or_none(sql["usage"], MemoryUsage, user_id=user.id, always=True)
    if found is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    return found


def record_memory_threshold(user: User) -> Plan[None]:
    """Record the event "quota.memory" for each threshold (80, 100 per cent) passed since the last call.

    A threshold is reported once, and again only after a call that found the size below it. `memory.capture` makes this
    call itself; make it from time to time if you store single files.
    """
    yield from tell(user.id)


def tell(user_id: UUID) -> Plan[None]:
    """Do what `record_memory_threshold` does, given the user's id."""
    now = yield from one_or_none(sql["usage"], MemoryUsage, user_id=user_id, always=False)
    if now is not None and now.level != now.told:
        yield from _tell(user_id, now)


@atomic
def _tell(user_id: UUID, now: MemoryUsage) -> Plan[None]:
    if not (yield from execute(sql["set_level"], user_id=user_id, level=now.level, told=now.told)):
        # Another process records the event.
        return
    for level in LEVELS:
        if now.told < level <= now.level:
            meta = {"percent": level, "bytes": now.bytes, "limit": now.limit, "hard": now.hard}
            yield from events.record("quota.memory", user_id=user_id, meta=meta)


def lock_memory_limit(user_id: UUID) -> Plan[None]:
    """Let only one transaction at a time store contents, if the limit is hard. Call this at the transaction's start."""
    yield from execute(sql["turn"], user_id=user_id)


def refuse(user_id: UUID, blob: Blob) -> Plan[None]:
    """Raise QuotaExceeded when a hard limit refuses this content."""
    if (yield from scalar(sql["fits"], bool, user_id=user_id, sha256=blob.sha256, data=blob.data)):
        return
    found = yield from one(sql["usage"], MemoryUsage, user_id=user_id, always=True)
    raise QuotaExceeded(
        dimension="memory_bytes",
        asked=len(blob.data or b""),
        remaining=found.remaining or 0,
        limit=found.limit,
    )
