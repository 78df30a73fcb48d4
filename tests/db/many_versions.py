"""New versions for the tests of batches."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from test_races import BODY

from atlas_sdk import Project
from atlas_sdk.model.blobs import sha256_of
from atlas_sdk.ops.new_version import NewVersion

__all__ = ["BODY", "contents", "new_project", "version"]


def new_project(client: Any, folder: Path, **limits: Any) -> Project:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    if limits:
        client.quotas.set_limits(user, **limits)
    return client.projects.create(user, path=folder)


def version(project: Project, path: str, content: bytes | None, **rest: Any) -> NewVersion:
    """Return a new version, or a deletion if there is no content."""
    facts = {} if content is None else {"content": content, "sha256": sha256_of(content), "size": len(content)}
    return NewVersion(
        user_id=project.user_id, project_id=project.id, path=path, kind=rest.pop("kind", "auto"), **facts, **rest
    )


def contents(client: Any, project: Project, path: str) -> list[bytes | None]:
    """Check the numbers of a file's versions; return the contents, oldest first; None for a deletion."""
    found = client.memory.history(project, path)[::-1]
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    return [None if one.deleted else client.memory.content(one) for one in found]
