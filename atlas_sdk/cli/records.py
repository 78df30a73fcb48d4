"""The JSON of objects: stable keys, full ids, paths in the form that `atlas_sdk.files.from_text` takes back."""

from typing import TYPE_CHECKING, Any

from atlas_sdk.files import to_text

if TYPE_CHECKING:
    from atlas_sdk import Checkpoint, FileDiff, Project, Restore, RestorePlan, RestoreStep, Snapshot

__all__ = ["of_checkpoint", "of_diff", "of_plan", "of_project", "of_restore", "of_skipped", "of_step", "of_version"]


def of_project(project: "Project") -> dict[str, Any]:
    """Return a project."""
    return {
        "id": str(project.id),
        "name": project.name,
        "path": to_text(project.path),
        "status": project.status,
        "created_at": project.created_at,
    }


def of_version(version: "Snapshot") -> dict[str, Any]:
    """Return one version of a file."""
    return {
        "id": str(version.id),
        "path": to_text(version.path),
        "seq": version.seq,
        "kind": version.kind,
        "deleted": version.deleted,
        "size": version.size,
        "sha256": version.sha256,
        "mode": f"{version.mode:04o}",
        "link": None if version.link is None else to_text(version.link),
        "attribution": version.attribution.to_json(),
        "created_at": version.created_at,
    }


def of_checkpoint(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Return a checkpoint."""
    return {
        "id": str(checkpoint.id),
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "note": checkpoint.note,
        "files": checkpoint.files,
        "size": checkpoint.size,
        "attribution": checkpoint.attribution.to_json(),
        "created_at": checkpoint.created_at,
    }


def of_diff(diff: "FileDiff") -> dict[str, Any]:
    r"""Return the difference of one file; bytes of its text that are not UTF-8 as `\xNN`."""
    text = diff.text
    return {
        "path": to_text(diff.path),
        "change": diff.change,
        "added_lines": diff.added_lines,
        "removed_lines": diff.removed_lines,
        "text": None if text is None else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "problem": diff.problem,
    }


def of_step(step: "RestoreStep") -> dict[str, Any]:
    """Return what a restore does to one file."""
    return {
        "path": to_text(step.path),
        "action": step.action,
        "version": None if step.snapshot_id is None else str(step.snapshot_id),
        "size": step.size,
        "sha256": step.sha256,
        "present_size": step.present_size,
        "present_sha256": step.present_sha256,
        "added_lines": step.added_lines,
        "removed_lines": step.removed_lines,
    }


def of_plan(plan: "RestorePlan") -> dict[str, Any]:
    """Return what a restore would do."""
    return {"target": plan.target, "reason": plan.reason, "steps": [of_step(step) for step in plan.steps]}


def of_restore(done: "Restore") -> dict[str, Any]:
    """Return what a restore did."""
    changes = [{**change.to_json(), "path": to_text(change.path)} for change in done.changes]
    return {"id": str(done.id), "target": done.target, "undone_at": done.undone_at, "changes": changes}


def of_skipped(path: str, reason: str) -> dict[str, str]:
    """Return a file that could not be kept, and why."""
    return {"path": to_text(path), "reason": reason}
