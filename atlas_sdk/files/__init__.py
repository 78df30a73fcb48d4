"""Find, read and replace the memory files of a project, without ever leaving its folder."""

from atlas_sdk.files.capture import FileState, Signature, entry, link_target, read_file, signature
from atlas_sdk.files.paths import from_text, printable, relative_path, to_text
from atlas_sdk.files.replace import remove_file, replace_file
from atlas_sdk.files.repositories import (
    Repository,
    first_commit,
    has_repository,
    real_folders,
    repository,
    repository_root,
)
from atlas_sdk.files.root import Root, hold, pin
from atlas_sdk.files.temporary import Leftover, leftovers, remove_leftover
from atlas_sdk.files.tracking import Scan, Skipped, Tracking
from atlas_sdk.text import cut, named, quoted, visible

__all__ = [
    "FileState",
    "Leftover",
    "Repository",
    "Root",
    "Scan",
    "Signature",
    "Skipped",
    "Tracking",
    "cut",
    "entry",
    "first_commit",
    "from_text",
    "has_repository",
    "hold",
    "leftovers",
    "link_target",
    "named",
    "pin",
    "printable",
    "quoted",
    "read_file",
    "real_folders",
    "relative_path",
    "remove_file",
    "remove_leftover",
    "replace_file",
    "repository",
    "repository_root",
    "signature",
    "to_text",
    "visible",
]
