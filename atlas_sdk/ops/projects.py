"""Projects: the folders whose memory files are kept."""

import os
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, local, many, one, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotAProject, NotFound
from atlas_sdk.files import from_text, named, to_text
from atlas_sdk.model.projects import PROJECT_STATUSES, Project, Purge
from atlas_sdk.model.users import User
from atlas_sdk.ops import builds, events, previews
from atlas_sdk.ops.checks import page_size
from atlas_sdk.text import quoted

__all__ = [
    "activate",
    "archive",
    "at",
    "by_path",
    "by_session",
    "create",
    "delete",
    "get",
    "list_of",
    "purge",
    "set_status",
    "touch",
    "update_memory",
]

sql = statements("projects")

#: What a list can be ordered by.
Order = Literal["created", "used"]

#: How exactly the last use is known: an index has the time, so each write of it is one to every index of the table.
_USED: Final = timedelta(minutes=1)


def _keys(project: Project) -> dict[str, UUID]:
    return {"user_id": project.user_id, "project_id": project.id}


def _gone(project: Project) -> NotFound:
    return NotFound(
        f"the project {named(project.name)} is deleted; register its folder again",
        kind="project",
        name=project.name,
    )


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and inode of a folder: how one that moved is recognised."""
    try:
        found = Path(folder).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _resolved(path: str | PathLike[str]) -> str:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise InvalidInput("a project needs the path of a folder, without NUL", field="path")
    return os.path.realpath(Path(text).expanduser())


@atomic
def create(
    user: User,
    *,
    path: str | PathLike[str],
    name: str | None = None,
    session_id: str | None = None,
    framework: str | None = None,
    language: str | None = None,
) -> Plan[Project]:
    """Register a folder; its name is the folder's unless given.

    The folder need not exist on this machine. `session_id` is the name that the outside knows the project by, unique
    in the database; one is made unless given. Raises AlreadyExists when the user has a project with this folder, be
    it archived, or the session id is taken.
    """
    folder = yield from local(_resolved, path)
    identity = yield from local(_identity, folder)
    project_id = (yield from context()).new_id()
    session = session_id or project_id.hex
    if not (yield from execute(sql["claim_session"], session_id=session, user_id=user.id)):
        raise AlreadyExists(f"the session id {quoted(session)} is taken", kind="project", name=session)
    project = yield from one_or_none(
        sql["create"],
        Project,
        user_id=user.id,
        project_id=project_id,
        session_id=session,
        name=to_text(name or Path(folder).name or folder),
        path=to_text(folder),
        root_device=identity and identity[0],
        root_inode=identity and identity[1],
        framework=framework,
        language=language,
    )
    if project is None:
        there = yield from one_or_none(sql["at"], Project, user_id=user.id, path=to_text(folder))
        sentence = f"{folder} is a project already"
        if there is not None and there.status == "archived":
            sentence += ", but archived: projects.activate brings it back with its whole history"
        raise AlreadyExists(sentence, kind="project", name=folder)
    yield from events.record("project.created", user_id=user.id, project_id=project.id, meta={"path": to_text(folder)})
    return project


def get(user: User, project_id: UUID) -> Plan[Project]:
    """Return a project by its id, be it archived or deleted. Raises NotFound."""
    return (yield from _get(user.id, project_id))


def _get(user_id: UUID, project_id: UUID) -> Plan[Project]:
    project = yield from one_or_none(sql["get"], Project, user_id=user_id, project_id=project_id)
    if project is None:
        raise NotFound(f"no project has the id {project_id}", kind="project", name=str(project_id))
    return project


def by_session(session_id: str) -> Plan[Project | None]:
    """Return the project with this session id, if any; not a deleted one, whose id is free again."""
    return (yield from one_or_none(sql["by_session"], Project, session_id=session_id))


def by_path(path: str | PathLike[str], *, user: User | None = None) -> Plan[Project]:
    """Return the active project that holds this file or folder: the innermost one at or above it.

    Without `user` projects of every user count. Raises NotAProject.
    """
    folder = yield from local(_resolved, path)
    around = [folder, *map(str, Path(folder).parents)]
    user_id = None if user is None else user.id
    project = yield from one_or_none(sql["by_paths"], Project, paths=[to_text(p) for p in around], user_id=user_id)
    if project is None:
        raise NotAProject(os.fspath(path))
    return project


def at(path: str | PathLike[str], *, user: User) -> Plan[Project | None]:
    """Return what is registered for exactly this folder, archived or not; look at `status`."""
    folder = yield from local(_resolved, path)
    return (yield from one_or_none(sql["at"], Project, user_id=user.id, path=to_text(folder)))


def archive(project: Project) -> Plan[Project]:
    """Stop keeping a project: `list`, `by_path` and the watcher leave it out, and its whole history stays.

    `activate` brings it back. Doing it again changes nothing. Raises NotFound when the project is deleted.
    """
    return (yield from _change_status(project, "archived", event="project.archived"))


def activate(project: Project) -> Plan[Project]:
    """Keep an archived project again, with the history that it has.

    Doing it again changes nothing. Raises NotFound when the project is deleted.
    """
    return (yield from _change_status(project, "active", event="project.activated"))


def set_status(project: Project, status: str) -> Plan[Project]:
    """Change the status of a project: what `activate`, `archive` and `delete` do. Raises NotFound, InvalidInput.

    active <-> archived; both -> deleted, which is final.
    """
    if status not in PROJECT_STATUSES:
        raise InvalidInput(f"status is one of {', '.join(PROJECT_STATUSES)}; not {quoted(status)}", field="status")
    change = {"active": activate, "archived": archive, "deleted": delete}[status]
    return (yield from change(project))


@atomic
def _change_status(project: Project, status: str, *, event: str) -> Plan[Project]:
    changed = yield from one_or_none(sql["change_status"], Project, status=status, **_keys(project))
    if changed is not None:
        yield from events.record(event, meta={"path": to_text(changed.path)}, **_keys(project))
        return changed
    found = yield from one_or_none(sql["get"], Project, **_keys(project))
    if found is None or found.status != status:
        raise _gone(project)
    return found


@atomic
def delete(project: Project) -> Plan[Project]:
    """Delete a project for good, but keep its memory until `purge`; return it with status "deleted".

    Folder and session id are free again, live previews are stopped and give back hosts and ports, builds that have not
    ended fail. `list` and `by_path` leave it out, and it takes no more builds and previews. Every version of its files
    can be read as before, through this object or `get`. Doing it again changes nothing. Raises NotFound after a purge.
    """
    # Before anything of the project: whoever adds something to it holds the key of this row, and what is added later
    # finds the project deleted.
    locked = yield from one_or_none(sql["lock"], Project, **_keys(project))
    if locked is None:
        raise _gone(project)
    if locked.status == "deleted":
        return locked
    meta = {
        "path": to_text(locked.path),
        "session_id": locked.session_id,
        "previews_stopped": (yield from previews.stop_all(locked)),
        "builds_failed": (yield from builds.fail_all(locked, error="the project was deleted")),
    }
    yield from execute(sql["release_session"], session_id=locked.session_id, user_id=locked.user_id)
    deleted = yield from one(sql["delete"], Project, **_keys(project))
    yield from events.record("project.deleted", meta=meta, **_keys(project))
    return deleted


@atomic
def purge(project: Project) -> Plan[Purge | None]:
    """Remove a deleted project with every version of its memory, for good; return how much that was.

    `delete` comes first, else InvalidInput: no single call takes the memory of a project that is in use. Checkpoints,
    restores, builds and previews go, too, and what the versions contained with `maintenance.collect_contents`; the
    ledger of what it used and the audit trail stay. None when it is gone already.
    """
    locked = yield from one_or_none(sql["lock"], Project, **_keys(project))
    if locked is None:
        return None
    if locked.status != "deleted":
        raise InvalidInput(
            f"the project {named(locked.name)} is {locked.status}: a purge takes every version of its memory, so"
            " `projects.delete` comes first",
            field="project",
        )
    # Made by hand since, if at all: their hosts and ports have no foreign key.
    yield from previews.stop_all(locked)
    gone = yield from one(sql["belongings"], Purge, **_keys(project))
    paths = yield from many(sql["memory_paths"], _path, **_keys(project))
    yield from execute(sql["purge"], **_keys(project))
    counts = {
        "memory_snapshots": gone.memory_snapshots,
        "checkpoints": gone.checkpoints,
        "builds": gone.builds,
        "previews": gone.previews,
    }
    yield from events.record("project.purged", meta=counts, **_keys(project))
    # Or a client would take a content that it knows for kept.
    heads = (yield from context()).heads
    for path in paths:
        heads.deleted((project.user_id, project.id, from_text(path)))
    return gone


def _path(*, path: str) -> str:
    return path


def list_of(
    user: User | None = None,
    *,
    status: str | None = "active",
    order: Order = "created",
    limit: int | None = None,
    after: Project | None = None,
) -> Plan[list[Project]]:
    """Return the active projects, oldest first: of one user, or of all (a watcher's view). Raises InvalidInput.

    `status` is another one, or None for all three. `order="used"` has those first that were changed or touched last.
    A page has `limit` of them, and `after` is the last one of the page before, as it was there: new projects do not
    shift pages, and one that is used in between may come before the first.
    """
    if status is not None and status not in PROJECT_STATUSES:
        raise InvalidInput(f"status is one of {', '.join(PROJECT_STATUSES)}; not {quoted(status)}", field="status")
    if order not in {"created", "used"}:
        raise InvalidInput(f'order is "created" or "used", not {quoted(order)}', field="order")
    by_use = order == "used"
    asked = {
        "status": status,
        "after_at": None if after is None else (after.updated_at if by_use else after.created_at),
        "after_id": None if after is None else after.id,
        "limit": None if limit is None else page_size(limit),
    }
    if user is None:
        return (yield from many(sql["list_all_by_use"] if by_use else sql["list_all"], Project, **asked))
    return (yield from many(sql["list_by_use"] if by_use else sql["list"], Project, user_id=user.id, **asked))


def touch(project: Project) -> Plan[bool]:
    """Note that a project is in use, for `list(order="used")`; return whether it was written: once a minute at most.

    No event: it may be called at every request. A deleted project stays as it is.
    """
    return bool((yield from execute(sql["touch"], every=_USED, **_keys(project))))


@atomic
def update_memory(project: Project) -> Plan[Project]:
    """Bring `has_memory` and `memory_size` up to date with the versions that are kept; return the project.

    They are taken from the memory and not from the caller, so they cannot be wrong. Checkpoints and `memory.capture` do
    it as well; call it after single snapshots. When they are right, nothing changes. Raises NotFound.
    """
    changed = yield from one_or_none(sql["remember_memory"], Project, **_keys(project))
    if changed is None:
        return (yield from _get(project.user_id, project.id))
    meta = {"has_memory": changed.has_memory, "memory_size": changed.memory_size}
    yield from events.record("project.memory_updated", meta=meta, **_keys(project))
    return changed


def remember_memory(project: Project) -> Plan[None]:
    """Refresh what the dashboards show of a project's memory, as a part of something that is on record."""
    yield from execute(sql["remember_memory"], **_keys(project))
