"""Previews in every status, for tests of any client."""

from __future__ import annotations

from typing import Any

from atlas_sdk import Preview, Project

#: How each status is reached.
WAY = {
    "creating": [],
    "running": ["running"],
    "sleeping": ["running", "sleeping"],
    "stopped": ["stopped"],
    "failed": ["failed"],
}


def preview_in(face: Any, project: Project, status: str, host: str = "app.example.com") -> Preview:
    preview = face.previews.create(project, host=host)
    for step in WAY[status]:
        preview = face.previews.set_status(preview, step)
    return preview


def events_of(face: Any, project: Project) -> list[str]:
    user = face.users.get(project.user_id)
    return [event.type for event in face.events.search(user, event_type="preview.", limit=1000)][::-1]
