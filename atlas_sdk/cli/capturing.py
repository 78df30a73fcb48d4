"""Print new versions and skipped files, for every command that captures."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from atlas_sdk.cli.output import Output, size
from atlas_sdk.files import printable

if TYPE_CHECKING:
    from atlas_sdk import Snapshot

#: The most untracked files that a command shows; `atlasctl files` shows all.
_MOST_SHOWN = 10
_HASH_ONLY = "only its hash was kept; raise limit_bytes under [track] in .atlas.toml, or exclude it"


def show_taken(out: Output, taken: "Iterable[Snapshot]") -> None:
    """Print new versions, one a line: each with the change of its file, which is new, changed or deleted."""
    out.table(
        [
            (version.short_id, _verb(version), printable(version.path), "" if version.deleted else size(version.size))
            for version in taken
        ],
        styles=("yellow", "green", "", "dim"),
    )


def _verb(version: "Snapshot") -> str:
    if version.deleted:
        return "deleted"
    return "new" if version.seq == 1 else "changed"


def warn_skipped(out: Output, skipped: Iterable[tuple[str, str]]) -> None:
    """Print a warning for each file that could not be stored, with the reason, on stderr."""
    for _, reason in skipped:
        out.warn(f"not captured: {reason}")


def note_lookalikes(out: Output, lookalikes: Iterable[tuple[str, str]]) -> None:
    """Print a line for each file that looks like memory and is not tracked, at most ten, on stderr."""
    found = list(lookalikes)
    for _, reason in found[:_MOST_SHOWN]:
        out.note(f"not tracked: {reason}")
    if len(found) > _MOST_SHOWN:
        out.note(f"not tracked: {len(found) - _MOST_SHOWN} more; atlasctl files shows them")


def unkept(versions: "Iterable[Snapshot]", limit_bytes: int) -> list[tuple[str, str]]:
    """Return the path of each version over the size limit, with the reason why its content was not stored."""
    return [
        (version.path, f"{printable(version.path)} is over the size limit of {limit_bytes:,} bytes: {_HASH_ONLY}")
        for version in versions
        if not version.deleted and version.size > limit_bytes
    ]
