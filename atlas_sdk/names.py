"""Check the names that people and agents give to checkpoints, before any other use of a name."""

from typing import Final

from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted, visible

__all__ = ["NAME_LENGTH", "checkpoint_name", "is_checkpoint_name", "is_reserved"]

#: The longest name that the column can hold, in characters.
NAME_LENGTH: Final = 200


def is_checkpoint_name(name: str) -> bool:
    """Return whether a name has 1 to 200 characters, no space at either end, and none that hides or reorders text."""
    # Check the length first, because the other checks are slow for a name of a megabyte.
    return 0 < len(name) <= NAME_LENGTH and name == name.strip() and name.isprintable() and visible(name) == name


def is_reserved(name: str) -> bool:
    """Return whether references use this name for something else, so that no checkpoint may have it."""
    return name == "latest" or name.startswith("@{")


def checkpoint_name(name: str) -> str:
    """Return the name unchanged if a new checkpoint may have it. Raises InvalidInput."""
    if not is_checkpoint_name(name):
        raise InvalidInput(
            f"{quoted(name)} is no name for a checkpoint: 1 to {NAME_LENGTH} printable characters, "
            "no space at either end",
            field="name",
        )
    if is_reserved(name):
        raise InvalidInput(f"{quoted(name)} is reserved; choose another name", field="name")
    return name
