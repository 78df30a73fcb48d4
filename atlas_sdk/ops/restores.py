"""Restore, undo, redo: plan first, keep what is there, then write.

The order makes a crash at any point harmless: what is on disk is put on record, a safety checkpoint names it, the
restored versions and the restore itself go on record — one transaction — and only then are files replaced, each in
one atomic step that refuses when the file is not what the plan saw.
"""

from collections.abc import Iterable
from datetime import datetime
from os import PathLike
from pathlib import Path
from uuid import UUID

from attrs import evolve

from atlas_sdk._plan import Json, Plan, atomic, context, local, many, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import ContentMissing, IntegrityFailure, InvalidInput, NotFound, RestoreRefused
from atlas_sdk.files import FileState, Tracking, printable, read_file, relative_path, remove_file, replace_file, to_text
from atlas_sdk.model.checkpoints import Change, Restore, RestorePlan, RestoreStep
from atlas_sdk.model.diffs import compare
from atlas_sdk.model.memory import Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops import checkpoints, events
from atlas_sdk.ops.append import Incoming, append, append_deletion
from atlas_sdk.ops.references import content, resolve

__all__ = ["plan_redo", "plan_restore", "plan_undo", "redo", "restore", "undo"]

sql = statements("restores")


def plan_restore(
    project: Project, reference: str, *, paths: Iterable[str | PathLike[str]] = (), delete: bool = False
) -> Plan[RestorePlan]:
    """Return what a restore would do, without doing it.

    Files that the reference does not have stay as they are ("kept"), unless `delete` is set, and so do those of which
    only hash and size are on record ("unkept"); files that Atlas never saw are not touched in any case. Raises NotFound
    when a path in `paths` is in neither, ContentMissing when only the hash of one is on record.
    """
    found = yield from resolve(project, reference)
    targets: dict[str, Snapshot | None] = dict(found.by_path())
    if found.whole:
        for version in (yield from many(statements("memory")["files"], Snapshot, **_keys(project))):
            targets.setdefault(version.path, None)
    only = {relative_path(Path(project.path), path) for path in paths}
    if missing := sorted(only - set(targets)):
        raise NotFound(f"{missing[0]} did not exist at {reference!r}", kind="file", name=missing[0])
    steps = []
    for path in sorted(only or targets):
        wanted = targets[path]
        step = yield from _step(project, path, wanted)
        if step.action == "unkept" and path in only and wanted is not None:
            # Asked for by name: say why it cannot be had.
            yield from content(wanted)
        if step.action == "delete" and not delete and found.whole:
            step = evolve(step, action="kept")
        steps.append(step)
    return RestorePlan(project_id=project.id, target=reference, steps=tuple(steps))


def _keys(project: Project) -> dict[str, UUID]:
    return {"user_id": project.user_id, "project_id": project.id}


def _step(project: Project, path: str, version: Snapshot | None) -> Plan[RestoreStep]:
    """Compare what is on disk with what shall be there."""
    root = Path(project.path)
    tracking = yield from local(Tracking.load, root)
    now = yield from local(read_file, root, path, limit_bytes=tracking.limit_bytes)
    present = None if now is None else now.sha256.hex()
    wanted = None if version is None else version.sha256
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


def restore(
    project: Project,
    target: str | RestorePlan,
    *,
    paths: Iterable[str | PathLike[str]] = (),
    delete: bool = False,
) -> Plan[Restore | None]:
    """Bring files back to a reference, or carry out a plan; None when everything is so already.

    Nothing is lost: what stands there now is put on record and named by a safety checkpoint before anything is
    written; each file is replaced in one atomic step and hashed again. Raises RestoreRefused, with nothing written,
    when a file changed since the plan or its present content is over the size limit and could not be kept.
    """
    plan = target
    if isinstance(plan, str):
        plan = yield from plan_restore(project, plan, paths=paths, delete=delete)
    if plan.project_id != project.id:
        raise InvalidInput(f"this plan was made for another project than {printable(project.name)}", field="target")
    if not plan.changes:
        return None
    contents = {}
    for step in plan.changes:
        if step.action == "write" and step.snapshot_id is not None:
            version = yield from one_or_none(
                statements("memory")["version"], Snapshot, id=step.snapshot_id, **_keys(project)
            )
            if version is None:
                raise NotFound(
                    f"the version of {printable(step.path)} that the plan wants is not on record any more: plan again",
                    kind="version",
                    name=str(step.snapshot_id),
                )
            contents[step.path] = yield from content(version)
    present = yield from _still_as_planned(project, plan)
    done = yield from _put_on_record(project, plan, present, contents)
    for step in sorted(plan.changes, key=lambda step: _turn(step, present[step.path])):
        yield from _apply(project, step, contents.get(step.path), present[step.path])
    return done


def _still_as_planned(project: Project, plan: RestorePlan) -> Plan[dict[str, FileState | None]]:
    """Read the files that the plan changes, and refuse when one is not what the plan saw."""
    root = Path(project.path)
    tracking = yield from local(Tracking.load, root)
    present: dict[str, FileState | None] = {}
    for step in plan.changes:
        now = yield from local(read_file, root, step.path, limit_bytes=tracking.limit_bytes)
        if (None if now is None else now.sha256.hex()) != step.present_sha256:
            raise RestoreRefused(
                f"{step.path} changed since the plan was made; nothing was written: look again and repeat",
                paths=(step.path,),
            )
        if now is not None and now.content is None:
            raise RestoreRefused(
                f"{step.path} is {now.size:,} bytes now, over the size limit of {tracking.limit_bytes:,}, so it could "
                "not be kept; nothing was written: move it away first",
                paths=(step.path,),
            )
        present[step.path] = now
    return present


@atomic
def _put_on_record(
    project: Project, plan: RestorePlan, present: dict[str, FileState | None], contents: dict[str, bytes]
) -> Plan[Restore]:
    lent = yield from context()
    tracking = yield from local(Tracking.load, Path(project.path))
    restore_id = lent.new_id()
    safety = f"before-{plan.reason}-{restore_id.hex[:12]}"
    known = {
        version.path: version
        for version in (yield from many(statements("memory")["files"], Snapshot, **_keys(project)))
    }
    for path, state in present.items():
        if state is not None:
            yield from append(project, state, kind=tracking.kind(path))
        elif path in known and not known[path].deleted:
            yield from append_deletion(project, path, kind=tracking.kind(path))
    made = yield from checkpoints.create(project, safety, kind="safety", note=f"before {plan.reason} of {plan.target}")
    if made is None:
        message = f"a checkpoint {safety!r} exists already"
        raise AssertionError(message)
    named = {v.path: v for v in (yield from resolve(project, safety)).versions}
    changes = []
    for step in plan.changes:
        kind = tracking.kind(step.path)
        if step.action == "delete":
            after = None
            yield from append_deletion(project, step.path, kind=kind, reason=plan.reason)
        else:
            wanted = _wanted(step, contents[step.path])
            new = yield from append(project, wanted, kind=kind, reason=plan.reason)
            after = step.snapshot_id if new is None else new.id
        before = named.get(step.path)
        changes.append(Change(path=step.path, before=None if before is None else before.id, after=after))
    meta = {"target": plan.target, "safety": safety, "files": [to_text(change.path) for change in changes]}
    yield from events.record(f"memory.{plan.reason}", **_keys(project), meta=meta)
    if plan.of is not None:
        now = yield from scalar(statements("schema")["now"], datetime)
        undone_at = now if plan.reason == "undo" else None
        marked = yield from one(sql["mark"], Restore, id=plan.of, undone_at=undone_at, **_keys(project))
        return evolve(marked, safety=safety)
    return (
        yield from one(
            sql["record"],
            Restore,
            id=restore_id,
            target=plan.target,
            safety=safety,
            changes=Json([change.to_json() for change in changes]),
            attribution=Json(lent.attribution.to_json()),
            **_keys(project),
        )
    )


def _wanted(step: RestoreStep, raw: bytes) -> Incoming:
    return Incoming(
        path=step.path,
        content=raw,
        sha256=bytes.fromhex(step.sha256 or ""),
        size=len(raw),
        mode=step.mode,
        link=step.link,
    )


def _turn(step: RestoreStep, present: FileState | None) -> int:
    """Symlinks that go come first and symlinks that come last: what they lead to may change under its own name."""
    if present is not None and present.link is not None and present.link != step.link:
        return 0
    return 1 if step.link is None else 2


def _apply(project: Project, step: RestoreStep, raw: bytes | None, present: FileState | None) -> Plan[None]:
    """Replace or remove one file, then look that it is so."""
    root = Path(project.path)
    expect = None if present is None else present.sha256
    if step.link is not None:
        # It may lead to a file that was restored a moment ago.
        now = yield from local(read_file, root, step.path, limit_bytes=0)
        if now is not None and (now.sha256.hex(), now.link) == (step.sha256, step.link):
            return
    if present is not None and (raw is None or present.link != step.link):
        # A symlink in the place of a file, or the other way round: never write through it.
        yield from local(remove_file, root, step.path, expect=present.sha256)
        expect = None
    if raw is None:
        return
    yield from local(replace_file, root, step.path, raw, mode=step.mode, link=step.link, expect=expect)
    now = yield from local(read_file, root, step.path, limit_bytes=len(raw))
    if now is None or now.sha256.hex() != step.sha256:
        raise IntegrityFailure(
            f"{step.path} was written but does not read back as version {step.sha256}; its content before is in the "
            "safety checkpoint (`atlasctl checkpoints`)",
            sha256=step.sha256 or "",
        )


def _plan_walk(project: Project, past: Restore, *, reason: str) -> Plan[RestorePlan]:
    """Plan the way back over a restore (undo), or forth again (redo)."""
    sides = {change.path: change.before if reason == "undo" else change.after for change in past.changes}
    ids = [side for side in sides.values() if side is not None]
    rows = yield from many(statements("memory")["versions"], Snapshot, ids=ids, **_keys(project))
    found = {version.id: version for version in rows}
    steps = []
    for path, side in sorted(sides.items()):
        if side is not None and side not in found:
            raise NotFound(f"version {side} of {path} is not on record any more", kind="version", name=str(side))
        steps.append((yield from _step(project, path, None if side is None else found[side])))
    return RestorePlan(project_id=project.id, target=past.target, reason=reason, of=past.id, steps=tuple(steps))


def plan_undo(project: Project) -> Plan[RestorePlan]:
    """Return what `undo` would do. Raises NotFound when there is no restore to undo."""
    past = yield from one_or_none(sql["to_undo"], Restore, **_keys(project))
    if past is None:
        raise NotFound(f"{project.name} has no restore to undo", kind="restore", name=project.name)
    return (yield from _plan_walk(project, past, reason="undo"))


def plan_redo(project: Project) -> Plan[RestorePlan]:
    """Return what `redo` would do. Raises NotFound when nothing was undone since the last restore."""
    past = yield from one_or_none(sql["to_redo"], Restore, **_keys(project))
    if past is None:
        raise NotFound(f"{project.name} has no undone restore to redo", kind="restore", name=project.name)
    return (yield from _plan_walk(project, past, reason="redo"))


def undo(project: Project) -> Plan[Restore]:
    """Take back the last restore that is not undone: the files are again what they were just before it.

    What was edited since is not lost: the checkpoint in `safety` names it. Raises NotFound, RestoreRefused.
    """
    plan = yield from plan_undo(project)
    return (yield from _walk(project, plan))


def redo(project: Project) -> Plan[Restore]:
    """Do the last undone restore again. Raises NotFound, RestoreRefused."""
    plan = yield from plan_redo(project)
    return (yield from _walk(project, plan))


def _walk(project: Project, plan: RestorePlan) -> Plan[Restore]:
    done = yield from restore(project, plan)
    if done is not None:
        return done
    # The files are so already: only the mark is missing.
    now = yield from scalar(statements("schema")["now"], datetime)
    undone_at = now if plan.reason == "undo" else None
    return (yield from one(sql["mark"], Restore, id=plan.of, undone_at=undone_at, **_keys(project)))
