"""The events of a project, and a change of the time of its last use."""

from __future__ import annotations

from typing import Any

import psycopg

from atlas_sdk import Project


def types(client: Any, project: Project) -> list[str]:
    user = client.users.get(project.user_id)
    return [event.type for event in client.events.recent(user, project=project)][::-1]


def leave_alone(connection: psycopg.Connection[Any], project: Project, *, days: int) -> None:
    """Set the last use of a project to so many days ago."""
    with connection.transaction():
        connection.execute("ALTER TABLE projects DISABLE TRIGGER update_projects_updated_at")
        connection.execute(
            "UPDATE projects SET updated_at = now() - make_interval(days => %s) WHERE id = %s", [days, project.id]
        )
        connection.execute("ALTER TABLE projects ENABLE TRIGGER update_projects_updated_at")
