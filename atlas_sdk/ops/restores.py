"""Restore, undo and redo: make a plan, store the present files, then write.

The order makes a crash at any point harmless. One transaction stores the files as they are, names them by a safety
checkpoint, and records the restored versions and the restore itself. After that, the restore replaces the files, each
in one atomic step that fails if the file has changed since the plan.
"""

import stat
from collections.abc import Iterable
from datetime import datetime
from os import PathLike
from pathlib import Path
from uuid import UUID

from attrs import evolve

from atlas_sdk._plan import Json, Plan, atomic, context, execute, local, many, one, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import (
    AtlasError,
    FileProblem,
    IntegrityFailure,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    RestoreRefused,
)
from atlas_sdk.files import (
    FileState,
    Root,
    Tracking,
    entry,
    named,
    pin,
    read_file,
    remove_file,
    replace_file,
    to_text,
)
from atlas_sdk.model.checkpoints import Restore, RestoreChange, RestorePlan, RestoreStep
from atlas_sdk.model.memory import Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops import events, memory_usage
from atlas_sdk.ops.append import append, append_deletion
from atlas_sdk.ops.contents import ensure_stored
from atlas_sdk.ops.delivery import deliver_first
from atlas_sdk.ops.leftovers import remove_leftovers
from atlas_sdk.ops.new_checkpoint import create as create_checkpoint
from atlas_sdk.ops.new_version import Incoming
from atlas_sdk.ops.references import content, project_keys, resolve
from atlas_sdk.ops.restore_plans import plan_redo, plan_restore, plan_undo, versions_by_id

__all__ = ["redo", "restore", "undo"]

sql = statements("restores")


def restore(
    project: Project,
    target: str | RestorePlan,
    *,
    paths: Iterable[str | PathLike[str]] = (),
    delete: bool = False,
) -> Plan[Restore | None]:
    """Bring files back to a reference, or carry out a plan of a restore, an undo or a redo.

    Returns the record of the restore: a new one, or the record of the restore that was undone or redone. Returns None
    when a restore has nothing to change; an undo or redo is recorded all the same. Nothing is lost: the call first
    stores the present files, and a safety checkpoint names them. Each file is replaced in one atomic step, then read
    and hashed again.

    Raises RestoreRefused, with nothing written, when a file or the project's folder changed since the plan, or when the
    present content of a file cannot be stored: it is over the size limit, or new and above a hard memory limit.
    """
    plan = target
    if isinstance(plan, str):
        plan = yield from plan_restore(project, plan, paths=paths, delete=delete)
    if plan.project_id != project.id:
        raise InvalidInput(f"this plan was made for another project than {named(project.name)}", field="target")
    if not plan.changes and plan.of is None:
        return None
    return (yield from _carry_out(project, plan))


def undo(project: Project) -> Plan[Restore]:
    """Undo the last restore that is not undone: bring back the files as they were just before the restore.

    Later edits are not lost: `safety` of the result names a checkpoint with them. Raises NotFound, RestoreRefused.
    """
    plan = yield from plan_undo(project)
    return (yield from _carry_out(project, plan))


def redo(project: Project) -> Plan[Restore]:
    """Redo the last undone restore. Raises NotFound, RestoreRefused."""
    plan = yield from plan_redo(project)
    return (yield from _carry_out(project, plan))


def _carry_out(project: Project, plan: RestorePlan) -> Plan[Restore]:
    yield from deliver_first(project)
    if not plan.changes and plan.of is not None:
        return (yield from _mark(project, plan.of, undone=plan.reason == "undo"))
    targets: dict[str, bytes] = {}
    versions = yield from versions_by_id(project, (step.snapshot_id for step in plan.changes))
    for step in plan.changes:
        if step.action == "write" and step.snapshot_id is not None:
            version = versions.get(step.snapshot_id)
            if version is None:
                raise NotFound(
                    f"the version of {named(step.path)} that the plan wants is not on record any more: plan again",
                    kind="version",
                    name=str(step.snapshot_id),
                )
            targets[step.path] = yield from content(version)
    root = yield from _same_folder(project, plan)
    yield from remove_leftovers(project, folders={step.path.rpartition("/")[0] for step in plan.steps})
    present = yield from _still_as_planned(plan, root)
    done = yield from _record(project, plan, root, present, targets)
    written: list[str] = []
    try:
        for step in sorted(plan.changes, key=lambda step: _turn(step, present[step.path])):
            yield from _apply(root, step, targets.get(step.path), present[step.path])
            written.append(step.path)
    except AtlasError as failure:
        yield from _after_failure(project, plan, root, done, nothing_written=not written)
        if not written:
            raise
        raise RestoreRefused(
            f"{failure}. Before that {len(written)} of {len(plan.changes)} files were written: "
            f"`memory.{'undo` takes them back' if plan.of is None else plan.reason + '` goes on'}",
            paths=tuple(step.path for step in plan.changes if step.path not in written),
            followed_by="undo" if plan.of is None else plan.reason,
        ) from failure
    return done


@atomic
def _after_failure(
    project: Project, plan: RestorePlan, root: Root, done: Restore, *, nothing_written: bool
) -> Plan[None]:
    """Store the files that are on the disk now, and correct the records that undo and redo use."""
    yield from memory_usage.lock_memory_limit(project.user_id)
    try:
        tracking = yield from local(Tracking.load, root)
    except FileProblem:
        # The folder cannot be opened: the next capture reads its files.
        tracking = None
    if tracking is not None:
        for step in plan.changes:
            yield from _note_present(project, root, tracking, step.path)
    if plan.of is not None:
        # The next undo or redo continues this restore.
        yield from _mark(project, plan.of, undone=plan.reason == "redo")
    elif nothing_written:
        now = yield from scalar(statements("schema")["now"], datetime)
        yield from execute(sql["void"], id=done.id, now=now, **project_keys(project))


def _mark(project: Project, restore_id: UUID, *, undone: bool) -> Plan[Restore]:
    """Record that a restore is undone, or is in effect again."""
    now = yield from scalar(statements("schema")["now"], datetime)
    return (
        yield from one(sql["mark"], Restore, id=restore_id, undone_at=now if undone else None, **project_keys(project))
    )


def _note_present(project: Project, root: Root, tracking: Tracking, path: str) -> Plan[None]:
    try:
        now = yield from local(read_file, root, path, limit_bytes=tracking.limit_bytes)
    except FileProblem:
        # The file cannot be read: the next capture reports it.
        return
    if now is None:
        yield from append_deletion(project, path, kind=tracking.kind(path))
        return
    try:
        yield from append(project, now, kind=tracking.kind(path))
    except QuotaExceeded:
        # Another process wrote this content: the next capture reports it.
        return


def _same_folder(project: Project, plan: RestorePlan) -> Plan[Root]:
    """Return the project's folder. Raises RestoreRefused when it is not the folder of the plan."""
    now = yield from local(pin, Path(project.path))
    if plan.folder not in {None, now.identity}:
        raise RestoreRefused(
            f"{named(project.path)} is another folder than the one that the plan was made for; nothing was "
            "written: look at it and repeat",
            paths=tuple(step.path for step in plan.changes),
        )
    return now


def _still_as_planned(plan: RestorePlan, root: Root) -> Plan[dict[str, FileState | None]]:
    """Read the files that the plan changes. Raises RestoreRefused when one has changed since the plan."""
    tracking = yield from local(Tracking.load, root)
    present: dict[str, FileState | None] = {}
    for step in plan.changes:
        now = yield from local(read_file, root, step.path, limit_bytes=tracking.limit_bytes)
        if (None if now is None else now.sha256.hex()) != step.present_sha256:
            raise RestoreRefused(
                f"{named(step.path)} changed since the plan was made; nothing was written: look again and repeat",
                paths=(step.path,),
            )
        if now is not None and now.content is None:
            raise RestoreRefused(
                f"{named(step.path)} is {now.size:,} bytes now, over the size limit of "
                f"{tracking.limit_bytes:,}, so it could not be kept; nothing was written: move it away first",
                paths=(step.path,),
            )
        if now is None and (yield from local(_is_symlink, root, step.path)):
            raise RestoreRefused(
                f"{named(step.path)} is a symlink that leads nowhere; nothing was written: remove it first",
                paths=(step.path,),
            )
        present[step.path] = now
    return present


def _is_symlink(root: Root, path: str) -> bool:
    found = entry(root, path)
    return found is not None and stat.S_ISLNK(found.st_mode)


@atomic
def _record(
    project: Project,
    plan: RestorePlan,
    root: Root,
    present: dict[str, FileState | None],
    targets: dict[str, bytes],
) -> Plan[Restore]:
    """Store the present files, name them by a checkpoint, and record the restored versions and the restore."""
    ctx = yield from context()
    yield from memory_usage.lock_memory_limit(project.user_id)
    tracking = yield from local(Tracking.load, root)
    restore_id = ctx.new_id()
    safety = f"before-{plan.reason}-{restore_id.hex[:12]}"
    known = {
        version.path: version
        for version in (yield from many(statements("memory")["files"], Snapshot, **project_keys(project)))
    }
    for path, state in present.items():
        if state is not None:
            yield from _keep(project, state, kind=tracking.kind(path))
        elif path in known and not known[path].deleted:
            yield from append_deletion(project, path, kind=tracking.kind(path))
    note = f"before {plan.reason} of {plan.target}"
    made = yield from create_checkpoint(project.user_id, project.id, safety, kind="safety", note=note)
    if made is None:
        message = f"a checkpoint {safety!r} exists already"
        raise AssertionError(message)
    for state in present.values():
        if state is not None:
            yield from ensure_stored(project, state)
    before = (yield from resolve(project, safety)).by_path()
    changes = []
    for step in plan.changes:
        kind = tracking.kind(step.path)
        if step.action == "delete":
            after = None
            yield from append_deletion(project, step.path, kind=kind, reason=plan.reason)
        else:
            wanted = _wanted(step, targets[step.path])
            new = yield from append(project, wanted, kind=kind, reason=plan.reason)
            after = step.snapshot_id if new is None else new.id
        old = before.get(step.path)
        changes.append(RestoreChange(path=step.path, before=None if old is None else old.id, after=after))
    meta = {"target": plan.target, "safety": safety, "files": [to_text(change.path) for change in changes]}
    yield from events.record(f"memory.{plan.reason}", **project_keys(project), meta=meta)
    if plan.of is not None:
        marked = yield from _mark(project, plan.of, undone=plan.reason == "undo")
        return evolve(marked, safety=safety)
    return (
        yield from one(
            sql["record"],
            Restore,
            id=restore_id,
            target=plan.target,
            safety=safety,
            changes=Json([change.to_json() for change in changes]),
            attribution=Json(ctx.attribution.to_json()),
            **project_keys(project),
        )
    )


def _keep(project: Project, state: FileState, *, kind: str) -> Plan[None]:
    """Store the content of a file that the restore will overwrite."""
    try:
        yield from append(project, state, kind=kind)
    except QuotaExceeded as full:
        raise RestoreRefused(
            f"the present content of {named(state.path)} is not on record and could not be kept; nothing was "
            f"written: {full}",
            paths=(state.path,),
        ) from full


def _wanted(step: RestoreStep, raw: bytes) -> Incoming:
    return Incoming(
        path=step.path,
        content=raw,
        sha256=bytes.fromhex(step.sha256 or ""),
        size=len(raw),
        mode=step.mode,
        link=step.link,
        folder_modes=step.folder_modes,
    )


def _turn(step: RestoreStep, present: FileState | None) -> int:
    """Return the rank of a step: remove symlinks first and make them last, because their targets may change too."""
    if present is not None and present.link is not None and present.link != step.link:
        return 0
    return 1 if step.link is None else 2


def _apply(root: Root, step: RestoreStep, raw: bytes | None, present: FileState | None) -> Plan[None]:
    """Replace or remove one file, then read it to check the result."""
    expect = None if present is None else present.sha256
    if step.link is not None:
        # An earlier step may have restored the target, so that nothing is left to do.
        now = yield from local(read_file, root, step.path, limit_bytes=0)
        if now is not None and (now.sha256.hex(), now.link) == (step.sha256, step.link):
            return
    if present is not None and (raw is None or present.link != step.link):
        # A symlink replaces a file, or a file replaces a symlink: never write through a symlink.
        yield from local(remove_file, root, step.path, expect=present.sha256)
        expect = None
    if raw is None:
        return
    yield from local(
        replace_file,
        root,
        step.path,
        raw,
        mode=step.mode,
        link=step.link,
        expect=expect,
        folder_modes=step.folder_modes,
    )
    now = yield from local(read_file, root, step.path, limit_bytes=len(raw))
    if now is None or now.sha256.hex() != step.sha256:
        raise IntegrityFailure(
            f"{step.path} was written but does not read back as version {step.sha256}; its content before is in the "
            "safety checkpoint of this restore",
            sha256=step.sha256 or "",
        )
