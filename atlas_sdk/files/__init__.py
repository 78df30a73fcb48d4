"""Find, read and replace the memory files of a project, without ever leaving its folder."""

from atlas_sdk.files.capture import FileState, Signature, entry, is_gone, link_target, read_file, signature
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
from atlas_sdk.files.safe_open import Trace, trace
from atlas_sdk.files.temporary import Leftover, leftovers, remove_leftover
from atlas_sdk.files.tracking import NOT_TRACKED, Scan, Skipped, Tracking
from atlas_sdk.text import cut, named, quoted, visible

__all__ = [
    "NOT_TRACKED",
    "FileState",
    "Leftover",
    "Repository",
    "Root",
    "Scan",
    "Signature",
    "Skipped",
    "Trace",
    "Tracking",
    "cut",
    "entry",
    "first_commit",
    "from_text",
    "has_repository",
    "hold",
    "is_gone",
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
    "trace",
    "visible",
]
