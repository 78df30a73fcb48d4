"""Records for tests of the journal."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from attrs import evolve
from uuid_utils.compat import uuid7

from atlas_sdk import Attribution, Project
from atlas_sdk.journal import Record

USER, PROJECT = UUID(int=1), UUID(int=2)
START = datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=UTC)
BEGAN = datetime.now(UTC) - timedelta(minutes=10)


def record(content: bytes | None = b"# Rules\n", **fields: Any) -> Record:
    """Return a version of CLAUDE.md; with content None, a deletion."""
    given = {
        "id": uuid7(),
        "user_id": USER,
        "project_id": PROJECT,
        "op": "deletion" if content is None else "version",
        "path": "CLAUDE.md",
        "content": content,
        "sha256": None if content is None else hashlib.sha256(content).digest(),
        "size": len(content or b""),
        "mode": 0o644,
        "kind": "auto",
        "attribution": Attribution(source="watcher", login="ada"),
        "captured_at": START,
    }
    return Record(**{**given, **fields})


def records(*contents: bytes | None, **fields: Any) -> list[Record]:
    """Return versions of one file, a second apart."""
    return [
        record(content, captured_at=START + timedelta(seconds=number), **fields)
        for number, content in enumerate(contents)
    ]


def checkpoint(name: str = "v1", **fields: Any) -> Record:
    return record(None, op="checkpoint", path="", name=name, kind="checkpoint", **fields)


def project(number: int = 2, **fields: Any) -> Project:
    given = {
        "id": UUID(int=number),
        "user_id": USER,
        "session_id": f"s{number}",
        "name": "app",
        "path": f"/srv/app{number}",
        "status": "active",
        "created_at": START,
        "updated_at": START,
    }
    return Project(**{**given, **fields})


def of(project: Project, *contents: bytes | None, **fields: Any) -> list[Record]:
    """Return versions of CLAUDE.md, captured minutes ago, a second apart."""
    made = records(*contents, **{"user_id": project.user_id, "project_id": project.id, **fields})
    return [evolve(one, captured_at=BEGAN + timedelta(seconds=number)) for number, one in enumerate(made)]


def checkpoint_of(project: Project, name: str, **fields: Any) -> Record:
    return checkpoint(name, user_id=project.user_id, project_id=project.id, captured_at=BEGAN, **fields)


def history(client: Any, project: Project, path: str = "CLAUDE.md") -> list[bytes | None]:
    """Return the contents of a file, the oldest first; None is a deletion."""
    found = client.memory.history(project, path)[::-1]
    return [None if one.deleted else client.memory.content(one) for one in found if one.kind != "checkpoint"]
