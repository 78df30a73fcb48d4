"""Builds: queued, running, succeeded or failed. Which change is allowed, the database decides.

`sql/migrations/0011_lifecycles.sql` has the state machine and the log.
"""

from collections.abc import Mapping
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, many, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput, NotFound
from atlas_sdk.model.builds import BUILD_STATUSES, Build, BuildStats
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User
from atlas_sdk.ops import events
from atlas_sdk.ops.checks import bounded, json_map, page_size, storable
from atlas_sdk.text import quoted

__all__ = ["append_log", "create", "fail", "fail_all", "get", "list_of", "log", "start", "stats", "succeed"]

sql = statements("builds")

#: What the columns hold: characters of the ids, bytes of the others.
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

    `meta` goes into the audit trail: who asked, for which commit. It counts against no quota: guard it with
    `quotas.guard(user, builds=1)`.
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
    """Begin a queued build. Raises IllegalTransition when it has ended, and NotFound.

    Starting a running one returns it as it is: of two builders, the one whose `container_id` is in the answer has it.
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
    """End a running build well; `resource_usage` is added to what is known. Raises IllegalTransition, NotFound.

    Doing it again changes nothing.
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
    """End a build that is queued or running, badly. Raises IllegalTransition when it succeeded, and NotFound.

    Of `error` the last 64 KiB are kept. Doing it again changes nothing, not even the error.
    """
    kept, _ = storable(error, _ERROR_BYTES)
    usage = resource_usage
    return (yield from _change(build, "failed", event="build.failed", error_message=kept, resource_usage=usage))


def fail_all(project: Project, *, error: str) -> Plan[int]:
    """End every build of a project that has not ended, in the transaction of the caller; return how many."""
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
        # It has this status, or is gone.
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
    """Append to the log of a build, as it is: end lines yourself. Raises NotFound.

    Several may append at once, also after the build has ended; no piece is lost or torn. Of the whole the last 16 MiB
    are kept. What PostgreSQL cannot hold (NUL, halves of surrogates) is written as an escape. No event: a log is a
    record itself.
    """
    content, size = storable(text, _LOG_BYTES)
    if not size:
        return
    keys = {"user_id": build.user_id, "build_id": build.id}
    if not (yield from scalar(sql["append_log"], bool, content=content, bytes=size, **keys)):
        raise _gone(build.id)


def log(build: Build) -> Plan[str]:
    """Return the log of a build: when it is longer than 16 MiB its end, and the first line says so. Raises NotFound."""

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

    `before` gives the page of older ones that follows this build, `after` the page of newer ones next to it. Pages are
    cut by id, which is in the order of time, so new builds do not shift them.
    """
    if status is not None and status not in BUILD_STATUSES:
        raise InvalidInput(f"status is one of {', '.join(BUILD_STATUSES)}; not {quoted(status)}", field="status")
    if before is not None and after is not None:
        raise InvalidInput("before or after, not both", field="after")
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


def stats(project: Project) -> Plan[BuildStats]:
    """Return how many builds of a project there are, how many went well, and how long they take."""
    return (yield from one(sql["stats"], BuildStats, user_id=project.user_id, project_id=project.id))
