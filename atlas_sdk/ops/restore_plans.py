"""Plan restores: compute the effect on each file, without changing anything."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from uuid import UUID

from attrs import evolve

from atlas_sdk._plan import Plan, local, many, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import ContentMissing, FileProblem, NotFound
from atlas_sdk.files import Root, Tracking, entry, is_gone, named, pin, read_file, relative_path, trace
from atlas_sdk.model.checkpoints import Restore, RestorePlan, RestoreStep
from atlas_sdk.model.diffs import compare
from atlas_sdk.model.memory import Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops.delivery import deliver_first
from atlas_sdk.ops.references import content, project_keys, resolve
from atlas_sdk.text import quoted

__all__ = ["plan_redo", "plan_restore", "plan_undo", "versions_by_id"]

sql = statements("restores")


def plan_restore(
    project: Project, reference: str, *, paths: Iterable[str | PathLike[str]] = (), delete: bool = False
) -> Plan[RestorePlan]:
    """Return the plan of a restore, without carrying it out.

    Files that the reference does not have stay as they are ("kept"), unless `delete` is set. Files with only hash and
    size on record stay too ("unkept"), and files whose place something else has, such as a folder ("blocked"). Files
    that have no version at all are never touched. Raises NotFound when a path
    of `paths` has no version, ContentMissing when only its hash is on record.
    """
    # The reference may mean a version that is still in the journal.
    yield from deliver_first(project)
    root = yield from local(pin, Path(project.path))
    found = yield from resolve(project, reference)
    targets: dict[str, Snapshot | None] = dict(found.by_path())
    if found.whole:
        for version in (yield from many(statements("memory")["files"], Snapshot, **project_keys(project))):
            targets.setdefault(version.path, None)
    only = {relative_path(Path(project.path), path) for path in paths}
    if missing := sorted(only - set(targets)):
        raise NotFound(f"{missing[0]} did not exist at {quoted(reference)}", kind="file", name=missing[0])
    steps = []
    for path in sorted(only or targets):
        wanted = targets[path]
        try:
            step = yield from _step(root, path, wanted)
        except FileProblem as problem:
            if problem.path != path or path in only:
                raise
            step = RestoreStep(path=path, action="blocked", problem=str(problem))
        if step.action == "unkept" and path in only and wanted is not None:
            # The caller named this file: raise the error that says why it cannot be restored.
            yield from content(wanted)
        if step.action == "delete" and not delete and found.whole:
            step = evolve(step, action="kept")
        steps.append(step)
    steps = yield from _without_room(root, steps)
    _refuse_blocked(steps, only)
    return RestorePlan(project_id=project.id, target=reference, folder=root.identity, steps=tuple(steps))


def _refuse_blocked(steps: list[RestoreStep], only: set[str]) -> None:
    """Raise FileProblem for a blocked file that the caller named. Other blocked files keep no file from its restore."""
    for step in steps:
        if step.problem is not None and step.path in only:
            raise FileProblem(step.problem, path=step.path)


def _without_room(root: Root, steps: list[RestoreStep]) -> Plan[list[RestoreStep]]:
    """Block the steps that write a file below another file, unless the plan deletes the other file."""
    deleted = {step.path for step in steps if step.action == "delete"}
    checked = []
    for step in steps:
        obstacle = (yield from local(_obstacle, root, step.path)) if step.action == "write" else None
        if obstacle is None or obstacle in deleted:
            checked.append(step)
            continue
        reason = f"{named(obstacle)} is a file, in the place of the folder of {named(step.path)}: move it away"
        checked.append(evolve(step, action="blocked", problem=reason))
    return checked


def _obstacle(root: Root, path: str) -> str | None:
    """Return the file that is in the place of a folder above a path; None when there is none."""
    way = trace(root, path, follow=False)
    if way.found is not None or way.blocked is not None or way.path.rpartition("/")[2] == path.rpartition("/")[2]:
        return None
    there = entry(root, way.path)
    return None if there is None else way.path


def _step(root: Root, path: str, version: Snapshot | None) -> Plan[RestoreStep]:
    """Return the step that turns the file on disk into the version to restore; a `version` of None is a deletion."""
    tracking = yield from local(Tracking.load, root)
    wanted = None if version is None else version.sha256
    try:
        now = yield from local(read_file, root, path, limit_bytes=tracking.limit_bytes)
    except FileProblem:
        if wanted is not None or not (yield from local(is_gone, root, path)):
            raise
        # The file is to be gone, and a folder or a special file has its place: nothing to do.
        now = None
    present = None if now is None else now.sha256.hex()
    step = RestoreStep(
        path=path,
        action="same",
        present_sha256=present,
        present_size=None if now is None else now.size,
        snapshot_id=None if version is None else version.id,
        sha256=wanted,
        size=None if version is None else version.size,
        mode=0o644 if version is None else version.mode,
        link=None if version is None else version.link,
        folder_modes=() if version is None else version.folder_modes,
    )
    if version is None or wanted is None:
        return step if now is None else evolve(step, action="delete")
    if now is not None and (present, now.mode, now.link) == (wanted, version.mode, version.link):
        return step
    try:
        target = yield from content(version)
    except ContentMissing:
        return evolve(step, action="unkept")
    before = None if now is None else now.content
    if now is not None and before is None:
        return evolve(step, action="write")
    lines = compare(path, before, target)
    return evolve(step, action="write", added_lines=lines.added_lines, removed_lines=lines.removed_lines)


def versions_by_id(project: Project, ids: Iterable[UUID | None]) -> Plan[dict[UUID, Snapshot]]:
    """Return the versions of a project that have one of these ids."""
    wanted = [one for one in ids if one is not None]
    rows = yield from many(statements("memory")["versions"], Snapshot, ids=wanted, **project_keys(project))
    return {version.id: version for version in rows}


def _plan_walk(project: Project, past: Restore, *, reason: str) -> Plan[RestorePlan]:
    """Return the plan that undoes or redoes the restore `past`; `reason` is "undo" or "redo"."""
    root = yield from local(pin, Path(project.path))
    sides = {change.path: change.before if reason == "undo" else change.after for change in past.changes}
    found = yield from versions_by_id(project, sides.values())
    steps = []
    for path, side in sorted(sides.items()):
        if side is not None and side not in found:
            raise NotFound(f"version {side} of {path} is no longer on record", kind="version", name=str(side))
        steps.append((yield from _step(root, path, None if side is None else found[side])))
    return RestorePlan(
        project_id=project.id,
        target=past.target,
        reason=reason,
        of=past.id,
        folder=root.identity,
        steps=tuple(steps),
    )


def plan_undo(project: Project) -> Plan[RestorePlan]:
    """Return the plan of `undo`. Raises NotFound when there is no restore to undo."""
    yield from deliver_first(project)
    past = yield from one_or_none(sql["to_undo"], Restore, **project_keys(project))
    if past is None:
        raise NotFound(f"{project.name} has no restore to undo", kind="restore", name=project.name)
    return (yield from _plan_walk(project, past, reason="undo"))


def plan_redo(project: Project) -> Plan[RestorePlan]:
    """Return the plan of `redo`. Raises NotFound when nothing was undone since the last restore."""
    yield from deliver_first(project)
    past = yield from one_or_none(sql["to_redo"], Restore, **project_keys(project))
    if past is None:
        raise NotFound(f"{project.name} has no undone restore to redo", kind="restore", name=project.name)
    return (yield from _plan_walk(project, past, reason="redo"))
