"""A model of the memory of one project: dictionaries in place of tables."""

from __future__ import annotations

from uuid import UUID

from attrs import define, field

from atlas_sdk import Snapshot

Files = dict[str, bytes]


@define
class Restored:
    """A restore as the model knows it: the files that it changed, before and after; None for no such file."""

    before: dict[str, bytes | None]
    after: dict[str, bytes | None]
    undone: bool = False


@define
class Model:
    """The state that the disk and the database must have."""

    disk: Files = field(factory=dict)
    #: The newest version of every file that was ever recorded; None for a deleted file.
    newest: dict[str, bytes | None] = field(factory=dict)
    checkpoints: dict[str, Files] = field(factory=dict)
    restores: list[Restored] = field(factory=list)
    #: Every version that has not been pruned.
    versions: dict[UUID, tuple[Snapshot, bytes | None]] = field(factory=dict)
    #: Versions whose time was set back.
    aged: set[UUID] = field(factory=set)

    def living(self) -> Files:
        return {path: content for path, content in self.newest.items() if content is not None}
