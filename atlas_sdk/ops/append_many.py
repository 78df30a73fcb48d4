"""Append many versions, of many files, projects and users."""

from collections.abc import Sequence

from atlas_sdk._heads import Key
from atlas_sdk._plan import Plan, context
from atlas_sdk.errors import AtlasError, InvalidInput, NotFound, QuotaExceeded
from atlas_sdk.model.memory import Snapshot
from atlas_sdk.ops.append import append_in_turn
from atlas_sdk.ops.new_version import NewVersion, Refused

__all__ = ["append_many"]

#: What the database says of one version, and not of all.
_REFUSALS = (QuotaExceeded, NotFound, InvalidInput)


def append_many(news: Sequence[NewVersion], *, in_order: bool = True) -> Plan[list[Snapshot | Refused | None]]:
    """Append versions, the versions of one file in the order of the list; return the results in the same order.

    None means that there was nothing to append: the version is equal to the newest one, or its id is stored already.
    A refused version does not stop the others; but if `in_order`, the later versions of its file are refused too,
    because none of them may come before it. Raises NotPermitted for another tenant's version, before any query.
    """
    ctx = yield from context()
    for user_id in {new.user_id for new in news}:
        ctx.require_tenant(user_id)
    refusals: dict[Key, AtlasError] = {}
    results: list[Snapshot | Refused | None] = []
    for new in news:
        if in_order and new.key in refusals:
            results.append(Refused(problem=refusals[new.key]))
            continue
        try:
            new.check()
            results.append((yield from append_in_turn(new)))
        except _REFUSALS as problem:
            refusals[new.key] = problem
            results.append(Refused(problem=problem))
    return results
