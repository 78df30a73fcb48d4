"""Append versions of many memory files at once."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, local
from atlas_sdk.errors import AtlasError
from atlas_sdk.files import FileState, Root, Tracking, pin, read_file, relative_path
from atlas_sdk.model.memory import Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops.append_many import append_many
from atlas_sdk.ops.contents import Content
from atlas_sdk.ops.delivery import deliver_first
from atlas_sdk.ops.memory import BY_NAME, incoming
from atlas_sdk.ops.new_version import NewVersion, Refused

__all__ = ["snapshot_many"]


def snapshot_many(
    items: Sequence[tuple[Project, str | PathLike[str], bytes | FileState | None]],
    *,
    kind: str | None = None,
    context: Mapping[str, object] | None = None,
) -> Plan[list[Snapshot | None]]:
    """Append versions of many memory files, of many projects, at once; return them in the order of the items.

    Each item is a project, a path and a content, as `snapshot` takes them: without content the call reads the file, and
    records a missing file as deleted. The result is None for an item that changes nothing. Versions of one file keep
    the order of the items. Up to 500 versions of a user, or 16 MiB, are committed together. An item that cannot be
    stored does not stop the others; the call raises its error at the end, and you may repeat the call, because what is
    stored already is not stored again. Raises the errors of `snapshot`.
    """
    for project in {project.id: project for project, _, _ in items}.values():
        yield from deliver_first(project)
    news: list[NewVersion] = []
    problems: list[AtlasError] = []
    places: list[int] = []
    results: list[Snapshot | None] = [None] * len(items)
    folders: dict[UUID, Path] = {}
    opened: dict[UUID, _Folder] = {}
    for place, (project, path, content) in enumerate(items):
        folder = folders.get(project.id)
        if folder is None:
            folder = folders[project.id] = Path(project.path)
        try:
            name = relative_path(folder, path)
            if content is None:
                new = yield from _read(project, name, opened, kind=kind, context=context)
            else:
                new = NewVersion.of(project, _state(name, content), kind=kind or BY_NAME.kind(name), context=context)
        except AtlasError as problem:
            problems.append(problem)
        else:
            news.append(new)
            places.append(place)
    for place, made in zip(places, (yield from append_many(news, in_order=False)), strict=True):
        if isinstance(made, Refused):
            problems.append(made.problem)
        else:
            results[place] = made
    if problems:
        raise problems[0]
    return results


def _state(path: str, content: bytes | FileState) -> Content:
    if isinstance(content, FileState):
        return content
    return incoming(path, content, mode=None, limit_bytes=BY_NAME.limit_bytes)


@frozen
class _Folder:
    """The folder of a project, with its rules."""

    root: Root
    tracking: Tracking


def _read(
    project: Project,
    path: str,
    opened: dict[UUID, _Folder],
    *,
    kind: str | None,
    context: Mapping[str, object] | None,
) -> Plan[NewVersion]:
    """Read a file; return its new version, or its deletion if there is no file."""
    folder = opened.get(project.id)
    if folder is None:
        root = yield from local(pin, Path(project.path))
        folder = opened[project.id] = _Folder(root, (yield from local(Tracking.load, root)))
    state = yield from local(read_file, folder.root, path, limit_bytes=folder.tracking.limit_bytes)
    kind = kind or folder.tracking.kind(path)
    if state is None:
        return NewVersion(user_id=project.user_id, project_id=project.id, path=path, kind=kind)
    return NewVersion.of(project, state, kind=kind, context=context)
