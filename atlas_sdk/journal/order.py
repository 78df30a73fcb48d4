"""The order of delivery: each file in the order of its records, and a checkpoint between them."""

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from attrs import define, field

__all__ = ["deliverable"]


@define
class _Waiting:
    """The part of one project that must wait for records that are held back."""

    paths: set[bytes] = field(factory=set)
    everything: bool = False

    def stops(self, path: bytes, *, is_checkpoint: bool, is_held: bool) -> bool:
        """Return whether a record must wait, and note that the later ones wait for it."""
        waits = is_held or self.everything or path in self.paths or (is_checkpoint and bool(self.paths))
        if waits and is_checkpoint:
            # A later version must not become a part of this checkpoint.
            self.everything = True
        elif waits:
            self.paths.add(path)
        return waits


def deliverable(
    keys: Iterable[Mapping[str, Any]],
    *,
    now: int | None,
    path: str | None,
    limit: int,
    max_bytes: int,
    skipped: Container[bytes],
) -> Iterator[int]:
    """Yield the numbers of the first records to deliver; `keys` are all records in order.

    `now` None delivers records that are held back too. No record waits for those whose ids are `skipped`. At least one
    record is yielded if there is one, whatever its size.
    """
    wanted = None if path is None else os.fsencode(path)
    waiting: dict[bytes, _Waiting] = {}
    found = size = 0
    for key in keys:
        held = now is not None and key["held_until"] is not None and key["held_until"] > now
        if key["id"] in skipped or (held and not key["blocks"]):
            continue
        of_project = waiting.get(key["project_id"])
        if held and of_project is None:
            of_project = waiting[key["project_id"]] = _Waiting()
        if of_project is not None and of_project.stops(
            key["path"], is_checkpoint=key["op"] == "checkpoint", is_held=held
        ):
            continue
        if wanted is not None and key["path"] != wanted:
            continue
        size += key["bytes"]
        if found and (size > max_bytes or found >= limit):
            return
        found += 1
        yield key["seq"]
        if found >= limit:
            return
