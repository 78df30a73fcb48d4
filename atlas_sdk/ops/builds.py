"""Builds of projects: their status and their logs.

The database decides which changes of status are allowed (`sql/migrations/0003_lifecycles.sql`).
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, many, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput, NotFound
from atlas_sdk.model.builds import BUILD_STATUSES, Build, BuildStats
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User
from atlas_sdk.ops import events
from atlas_sdk.ops.checks import bounded, json_map, moment, page_size, storable
from atlas_sdk.text import quoted

__all__ = ["append_log", "create", "fail", "fail_all", "get", "list_of", "log", "start", "stats", "succeed"]

sql = statements("builds")

#: Bounds of the columns: characters for ids, bytes for the others.
_CONTAINER_LENGTH = 128
_IMAGE_LENGTH = 255
_ERROR_BYTES = 64 * 1024
_LOG_BYTES = 16 * 1024 * 1024


def _gone(build_id: UUID) -> NotFound:
    return NotFound(f"no build has the id {build_id}", kind="build", name=str(build_id))


@atomic
def create(
    project: Project, *, resource_usage: Mapping[str, object] | None = None, meta: Mapping[str, object] | None = None
) -> Plan[Build]:
    """Queue a build. Raises NotFound when the project is deleted.

    The event records `meta`, for example the requester and the commit. The build counts against no quota: guard it
    with `quotas.guard(user, builds=1)`.
    """
    usage = json_map("resource_usage", resource_usage or {})
    json_map("meta", meta)
    build = yield from one_or_none(
        sql["create"],
        Build,
        user_id=project.user_id,
        build_id=(yield from context()).new_id(),
        project_id=project.id,
        resource_usage=usage,
    )
    if build is None:
        raise NotFound(f"the project {project.id} is deleted", kind="project", name=str(project.id))
    yield from _record("build.created", build, meta or {})
    return build


def start(build: Build, *, container_id: str | None = None, image_id: str | None = None) -> Plan[Build]:
    """Begin a queued build. Raises IllegalTransition when the build has ended, and NotFound.

    A running build does not change. If two builders start one build, both get the `container_id` of the builder that
    was first.
    """
    return (
        yield from _change(
            build,
            "running",
            event="build.started",
            container_id=bounded("container_id", container_id, _CONTAINER_LENGTH),
            image_id=bounded("image_id", image_id, _IMAGE_LENGTH),
        )
    )


def succeed(
    build: Build, *, image_id: str | None = None, resource_usage: Mapping[str, object] | None = None
) -> Plan[Build]:
    """Mark a running build as succeeded; merge `resource_usage` into the stored one. Idempotent.

    Raises IllegalTransition, NotFound.
    """
    return (
        yield from _change(
            build,
            "succeeded",
            event="build.succeeded",
            image_id=bounded("image_id", image_id, _IMAGE_LENGTH),
            resource_usage=resource_usage,
        )
    )


def fail(build: Build, *, error: str, resource_usage: Mapping[str, object] | None = None) -> Plan[Build]:
    """Mark a queued or running build as failed. Idempotent: a second call changes nothing, not even the error.

    Only the last 64 KiB of `error` are stored. Raises IllegalTransition when the build succeeded, and NotFound.
    """
    kept, _ = storable(error, _ERROR_BYTES)
    usage = resource_usage
    return (yield from _change(build, "failed", event="build.failed", error_message=kept, resource_usage=usage))


def fail_all(project: Project, *, error: str) -> Plan[int]:
    """Fail every unfinished build of a project, in the caller's transaction; return how many."""
    found = yield from many(sql["unfinished"], Build, user_id=project.user_id, project_id=project.id)
    for build in found:
        yield from fail(build, error=error)
    return len(found)


@atomic
def _change(
    build: Build,
    status: str,
    *,
    event: str,
    container_id: str | None = None,
    image_id: str | None = None,
    error_message: str | None = None,
    resource_usage: Mapping[str, object] | None = None,
) -> Plan[Build]:
    changed = yield from one_or_none(
        sql["change"],
        Build,
        user_id=build.user_id,
        build_id=build.id,
        status=status,
        container_id=container_id,
        image_id=image_id,
        error_message=error_message,
        resource_usage=json_map("resource_usage", resource_usage),
    )
    if changed is None:
        # The build has this status already, or does not exist.
        found = yield from one_or_none(sql["get"], Build, user_id=build.user_id, build_id=build.id)
        if found is None:
            raise _gone(build.id)
        return found
    if changed.finished_at is not None:
        yield from execute(sql["fold_log"], user_id=build.user_id, build_id=build.id)
    yield from _record(event, changed, {} if container_id is None else {"container_id": container_id})
    return changed


def _record(event: str, build: Build, meta: Mapping[str, object]) -> Plan[None]:
    meta = {**meta, "build": str(build.id)}
    yield from events.record(event, user_id=build.user_id, project_id=build.project_id, meta=meta)


def append_log(build: Build, text: str) -> Plan[None]:
    """Append a text to the log of a build, without adding a newline. Raises NotFound.

    Several processes may append at once, also after the build has ended. No piece is lost or split. Only the last
    16 MiB of the log are stored. NUL and half surrogate pairs, which PostgreSQL cannot store, become escapes. There is
    no event, because the log is a record itself.
    """
    content, size = storable(text, _LOG_BYTES)
    if not size:
        return
    keys = {"user_id": build.user_id, "build_id": build.id}
    if not (yield from scalar(sql["append_log"], bool, content=content, bytes=size, **keys)):
        raise _gone(build.id)


def log(build: Build) -> Plan[str]:
    """Return the log of a build. Raises NotFound.

    Only the last 16 MiB of a longer log are stored. Its first line then says how many bytes are missing.
    """

    def row(*, content: str | None) -> str | None:
        return content

    (content,) = yield from many(sql["log"], row, user_id=build.user_id, build_id=build.id)
    if content is None:
        raise _gone(build.id)
    return content


def list_of(
    project: Project,
    *,
    status: str | None = None,
    limit: int = 50,
    before: Build | UUID | None = None,
    after: Build | UUID | None = None,
) -> Plan[list[Build]]:
    """Return the builds of a project, the newest first. Raises InvalidInput.

    Pass the last build of a page as `before` to get the next page of older builds, or the first one as `after` to get
    the page of newer builds. New builds do not shift the pages, because ids are in the order of time.
    """
    if status is not None and status not in BUILD_STATUSES:
        raise InvalidInput(f"status must be one of {', '.join(BUILD_STATUSES)}, not {quoted(status)}", field="status")
    if before is not None and after is not None:
        raise InvalidInput("give before or after, not both", field="after")
    keys = {"user_id": project.user_id, "project_id": project.id, "status": status, "limit": page_size(limit)}
    if after is not None:
        return (yield from many(sql["list_after"], Build, after=_id_of(after), **keys))[::-1]
    return (yield from many(sql["list"], Build, before=None if before is None else _id_of(before), **keys))


def _id_of(build: Build | UUID) -> UUID:
    return build.id if isinstance(build, Build) else build


def get(user: User, build_id: UUID) -> Plan[Build]:
    """Return a build by its id. Raises NotFound."""
    found = yield from one_or_none(sql["get"], Build, user_id=user.id, build_id=build_id)
    if found is None:
        raise _gone(build_id)
    return found


def stats(project: Project, *, since: datetime | None = None) -> Plan[BuildStats]:
    """Return the number of builds of a project, their success rate and their run times. Raises InvalidInput.

    The call counts the builds that were queued at the time `since` or later; by default, those of the last 30 days. Its
    time grows with their number, about 50 ms for 100,000. `projects.health` counts all builds of a project.
    """
    keys = {"user_id": project.user_id, "project_id": project.id}
    return (yield from one(sql["stats"], BuildStats, since=moment("since", since), **keys))
