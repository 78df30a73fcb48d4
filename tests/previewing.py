"""Previews in every status, for tests of both clients."""

from __future__ import annotations

from typing import Any

from atlas_sdk import Preview, Project

#: The changes that lead to each status.
WAY = {
    "creating": [],
    "running": ["running"],
    "sleeping": ["running", "sleeping"],
    "stopped": ["stopped"],
    "failed": ["failed"],
}


def preview_in(client: Any, project: Project, status: str, host: str = "app.example.com") -> Preview:
    preview = client.previews.create(project, host=host)
    for step in WAY[status]:
        preview = client.previews.set_status(preview, step)
    return preview


def events_of(client: Any, project: Project) -> list[str]:
    user = client.users.get(project.user_id)
    return [event.type for event in client.events.search(user, event_type="preview.", limit=1000)][::-1]
