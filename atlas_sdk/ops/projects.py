"""Projects: the folders whose memory files are kept."""

import os
from os import PathLike
from pathlib import Path
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, local, many, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotAProject, NotFound
from atlas_sdk.files import printable, to_text
from atlas_sdk.model.projects import Project
from atlas_sdk.model.users import User
from atlas_sdk.ops import events

__all__ = ["activate", "archive", "at", "by_path", "by_session", "create", "get", "list_active"]

sql = statements("projects")


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
        raise AlreadyExists(f"the session id {session!r} is taken", kind="project", name=session)
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
            sentence += (
                ", but archived: `atlasctl init` there, or `projects.activate`, brings it back with its whole history"
            )
        raise AlreadyExists(sentence, kind="project", name=folder)
    yield from events.record("project.created", user_id=user.id, project_id=project.id, meta={"path": to_text(folder)})
    return project


def get(user: User, project_id: UUID) -> Plan[Project]:
    """Return a project by its id. Raises NotFound."""
    project = yield from one_or_none(sql["get"], Project, user_id=user.id, project_id=project_id)
    if project is None:
        raise NotFound(f"no project has the id {project_id}", kind="project", name=str(project_id))
    return project


def by_session(session_id: str) -> Plan[Project | None]:
    """Return the project with this session id, if any."""
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


@atomic
def _change_status(project: Project, status: str, *, event: str) -> Plan[Project]:
    keys = {"user_id": project.user_id, "project_id": project.id}
    changed = yield from one_or_none(sql["change_status"], Project, status=status, **keys)
    if changed is not None:
        yield from events.record(event, meta={"path": to_text(changed.path)}, **keys)
        return changed
    found = yield from one_or_none(sql["get"], Project, **keys)
    if found is None or found.status != status:
        raise NotFound(
            f"the project {printable(project.name)} is deleted; register its folder again",
            kind="project",
            name=project.name,
        )
    return found


def list_active(user: User | None = None) -> Plan[list[Project]]:
    """Return the active projects, oldest first: of one user, or of all (a watcher's view)."""
    return (yield from many(sql["list"], Project, user_id=None if user is None else user.id))


def remember_memory(project: Project) -> Plan[None]:
    """Refresh what the dashboards show of a project's memory."""
    yield from execute(sql["remember_memory"], user_id=project.user_id, project_id=project.id)
