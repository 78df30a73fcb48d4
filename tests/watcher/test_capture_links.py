"""A symlink in a home that leads to another file after the scan: the watcher never keeps credentials."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from journaling import project

from atlas_sdk import Attribution
from atlas_sdk.files import Tracking
from watcher.capture import Reader
from watcher.debounce import ChangeKind
from watcher.folder import Folder


@pytest.mark.parametrize("link", [".claude/rules/mine.md", ".claude/imported.md"])
def test_a_symlink_that_is_changed_to_a_key_is_not_read(link: str, tmp_path: Path) -> None:
    for path in (".claude/rules", ".ssh", "dotfiles"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / ".ssh/id_ed25519").write_text("a key")
    (tmp_path / "dotfiles/mine.md").write_text("rules")
    reader = Reader(Attribution(source="watcher"), uuid4)
    kept = {}
    for target in ("dotfiles/mine.md", ".ssh/id_ed25519"):
        (tmp_path / link).unlink(missing_ok=True)
        (tmp_path / link).symlink_to(tmp_path / target)
        folder = Folder(project(path=str(tmp_path)), tracking=Tracking(user=True))
        look = reader.look(folder, link, change=ChangeKind.CLOSED)
        kept[target] = None if look.record is None else look.record.content
    assert kept == {"dotfiles/mine.md": b"rules", ".ssh/id_ed25519": None}
