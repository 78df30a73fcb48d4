"""Read the views `user_usage_summary` and `project_health`."""

from atlas_sdk._plan import Plan, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotFound
from atlas_sdk.model.projects import Project
from atlas_sdk.model.summaries import ProjectHealth, UsageSummary
from atlas_sdk.model.users import User

__all__ = ["health", "usage_summary"]

sql = statements("summaries")


def usage_summary(user: User) -> Plan[UsageSummary]:
    """Return a summary of a user: usage of the month, projects, previews, builds. Raises NotFound.

    The summary is a row of the view `user_usage_summary`. `quotas.usage` has all limits and the amounts held.
    """
    found = yield from one_or_none(sql["usage_summary"], UsageSummary, user_id=user.id)
    if found is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    return found


def health(project: Project) -> Plan[ProjectHealth]:
    """Return a summary of a project: its builds, previews and memory. Raises NotFound.

    The summary is a row of the view `project_health`.
    """
    found = yield from one_or_none(sql["project_health"], ProjectHealth, user_id=project.user_id, project_id=project.id)
    if found is None:
        raise NotFound(f"no project has the id {project.id}", kind="project", name=str(project.id))
    return found
