"""Register projects and change their status. A project is a folder whose memory files have a history."""

import os
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, local, many, one, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotAProject, NotFound
from atlas_sdk.files import first_commit, from_text, named, real_folders, to_text
from atlas_sdk.model.projects import PROJECT_STATUSES, Project, ProjectPurge
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

#: The orders of a list.
Order = Literal["created", "used"]

#: The precision of the time of last use. The time is indexed, so each change of it writes to all indexes of the table.
_USED: Final = timedelta(minutes=1)


def keys(project: Project) -> dict[str, UUID]:
    return {"user_id": project.user_id, "project_id": project.id}


def gone_project(project: Project) -> NotFound:
    return NotFound(
        f"the project {named(project.name)} is deleted; register its folder again",
        kind="project",
        name=project.name,
    )


def marks(folder: str) -> dict[str, object]:
    """Return what recognises a folder at another path, for the columns of its project; all None without a folder."""
    try:
        found = Path(folder).stat()
    except OSError:
        return {"root_device": None, "root_inode": None, "first_commit": None}
    # PostgreSQL has no unsigned numbers: store the same 64 bits as a signed number.
    device, inode = (number - (number >> 63 << 64) for number in (found.st_dev, found.st_ino))
    return {"root_device": device, "root_inode": inode, "first_commit": first_commit(folder)}


def resolved(path: str | PathLike[str]) -> str:
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
    """Register a folder as a project. `name` defaults to the folder's name.

    The folder need not exist on this machine. `session_id` is the project's name for other systems, unique in the
    database; the default is a random one. Raises AlreadyExists when the user has a project with this folder already,
    even an archived one, or when the session id is taken.
    """
    folder = yield from local(resolved, path)
    found = yield from local(marks, folder)
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
        framework=framework,
        language=language,
        **found,
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
    """Return a project by its id, also an archived or deleted one. Raises NotFound."""
    return (yield from _get(user.id, project_id))


def _get(user_id: UUID, project_id: UUID) -> Plan[Project]:
    project = yield from one_or_none(sql["get"], Project, user_id=user_id, project_id=project_id)
    if project is None:
        raise NotFound(f"no project has the id {project_id}", kind="project", name=str(project_id))
    return project


def by_session(session_id: str) -> Plan[Project | None]:
    """Return the project with this session id, or None. The session id of a deleted project is free."""
    return (yield from one_or_none(sql["by_session"], Project, session_id=session_id))


def by_path(path: str | PathLike[str], *, user: User | None = None) -> Plan[Project]:
    """Return the active project whose folder contains this file or folder; of nested projects, the innermost one.

    A project ends at a git repository or worktree below its folder: the files in there are not the project's. Without
    `user` the call looks at the projects of all users. Raises NotAProject.
    """
    inside, outside = yield from local(real_folders, (yield from local(resolved, path)))
    project = yield from _innermost(inside, user)
    if project is None:
        outer = (yield from _innermost(outside, user)) if outside else None
        raise NotAProject(os.fspath(path), border=inside[-1], outer=None if outer is None else outer.path)
    return project


def _innermost(folders: list[str], user: User | None) -> Plan[Project | None]:
    asked = {"paths": [to_text(folder) for folder in folders], "user_id": None if user is None else user.id}
    return (yield from one_or_none(sql["by_paths"], Project, **asked))


def at(path: str | PathLike[str], *, user: User) -> Plan[Project | None]:
    """Return the project of exactly this folder, active or archived, or None. Check its `status`."""
    folder = yield from local(resolved, path)
    return (yield from one_or_none(sql["at"], Project, user_id=user.id, path=to_text(folder)))


def archive(project: Project) -> Plan[Project]:
    """Archive a project: `list`, `by_path` and the watcher ignore it, and its history stays. Idempotent.

    `activate` brings it back. Raises NotFound when the project is deleted.
    """
    return (yield from _change_status(project, "archived", event="project.archived"))


def activate(project: Project) -> Plan[Project]:
    """Activate an archived project, with its whole history. Idempotent.

    Raises NotFound when the project is deleted.
    """
    return (yield from _change_status(project, "active", event="project.activated"))


def set_status(project: Project, status: str) -> Plan[Project]:
    """Change the status of a project, by `activate`, `archive` or `delete`. Raises NotFound, InvalidInput.

    Allowed changes: active <-> archived; both -> deleted, which is final.
    """
    if status not in PROJECT_STATUSES:
        raise InvalidInput(f"status must be one of {', '.join(PROJECT_STATUSES)}, not {quoted(status)}", field="status")
    change = {"active": activate, "archived": archive, "deleted": delete}[status]
    return (yield from change(project))


@atomic
def _change_status(project: Project, status: str, *, event: str) -> Plan[Project]:
    changed = yield from one_or_none(sql["change_status"], Project, status=status, **keys(project))
    if changed is not None:
        yield from events.record(event, meta={"path": to_text(changed.path)}, **keys(project))
        return changed
    found = yield from one_or_none(sql["get"], Project, **keys(project))
    if found is None or found.status != status:
        raise gone_project(project)
    return found


@atomic
def delete(project: Project) -> Plan[Project]:
    """Delete a project for good, but keep its memory until `purge`; return it with status "deleted". Idempotent.

    Its folder and session id become free. Its live previews stop and free their hosts and ports; its unfinished builds
    fail. `list` and `by_path` ignore the project, and it accepts no more builds and previews. You can still read every
    version of its files, through this object or `get`. Raises NotFound after a purge.
    """
    # Lock the row first: the lock waits for transactions that add to the project. Later ones find the project deleted.
    locked = yield from one_or_none(sql["lock"], Project, **keys(project))
    if locked is None:
        raise gone_project(project)
    if locked.status == "deleted":
        return locked
    meta = {
        "path": to_text(locked.path),
        "session_id": locked.session_id,
        "previews_stopped": (yield from previews.stop_all(locked)),
        "builds_failed": (yield from builds.fail_all(locked, error="the project was deleted")),
    }
    yield from execute(sql["release_session"], session_id=locked.session_id, user_id=locked.user_id)
    deleted = yield from one(sql["delete"], Project, **keys(project))
    yield from events.record("project.deleted", meta=meta, **keys(project))
    return deleted


@atomic
def purge(project: Project) -> Plan[ProjectPurge | None]:
    """Remove a deleted project and its whole memory, for good; return the counts, or None if there is no such project.

    Call `delete` first: no single call removes the memory of a project in use. Checkpoints, restores, builds and
    previews are removed too. `maintenance.collect_contents` later removes the contents of the versions. The project's
    ledger entries and the audit trail stay. Raises InvalidInput when the project is not deleted.
    """
    locked = yield from one_or_none(sql["lock"], Project, **keys(project))
    if locked is None:
        return None
    if locked.status != "deleted":
        raise InvalidInput(
            f"the project {named(locked.name)} is {locked.status}: a purge removes every version of its memory, so"
            " call `projects.delete` first",
            field="project",
        )
    # Stop previews that plain SQL has inserted since the deletion: no foreign key frees their hosts and ports.
    yield from previews.stop_all(locked)
    gone = yield from one(sql["belongings"], ProjectPurge, **keys(project))
    paths = yield from many(sql["memory_paths"], _path, **keys(project))
    yield from execute(sql["purge"], **keys(project))
    counts = {
        "memory_snapshots": gone.memory_snapshots,
        "checkpoints": gone.checkpoints,
        "builds": gone.builds,
        "previews": gone.previews,
    }
    yield from events.record("project.purged", meta=counts, **keys(project))
    # Tell the cache: otherwise clients would believe that the contents they know are still stored.
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
    """Return the active projects of one user, or of all users for a watcher, oldest first. Raises InvalidInput.

    `status` selects another status; None selects all. With `order="used"`, the project that was changed or touched last
    comes first. Pass the last project of a page as `after` to get the next page of `limit` projects. New projects do
    not shift pages; with `order="used"`, a project that is used in between moves to the front.
    """
    if status is not None and status not in PROJECT_STATUSES:
        raise InvalidInput(f"status must be one of {', '.join(PROJECT_STATUSES)}, not {quoted(status)}", field="status")
    if order not in {"created", "used"}:
        raise InvalidInput(f'order must be "created" or "used", not {quoted(order)}', field="order")
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
    """Record the use of a project for `list(order="used")`, at most once a minute; return True if this call did it.

    There is no event, so you may call this at every request. The call ignores a deleted project.
    """
    return bool((yield from execute(sql["touch"], every=_USED, **keys(project))))


@atomic
def update_memory(project: Project) -> Plan[Project]:
    """Update `has_memory` and `memory_size` from the stored versions; return the project. Raises NotFound.

    Checkpoints and `memory.capture` do the same by themselves. Call `update_memory` after single snapshots.
    """
    changed = yield from one_or_none(sql["remember_memory"], Project, **keys(project))
    if changed is None:
        return (yield from _get(project.user_id, project.id))
    meta = {"has_memory": changed.has_memory, "memory_size": changed.memory_size}
    yield from events.record("project.memory_updated", meta=meta, **keys(project))
    return changed


def remember_memory(project: Project) -> Plan[None]:
    """Update `has_memory` and `memory_size` without an event, because the calling operation has a record of its own."""
    yield from execute(sql["remember_memory"], **keys(project))
