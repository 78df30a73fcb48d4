"""Objects as JSON: stable keys, full ids, paths as `atlas_sdk.files.from_text` reads them."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from atlas_sdk.files import to_text

if TYPE_CHECKING:
    from atlas_sdk import (
        Checkpoint,
        FileDiff,
        Limits,
        OpenReservation,
        Project,
        Restore,
        RestorePlan,
        Session,
        Snapshot,
        TopUp,
        Usage,
        User,
    )
    from atlas_sdk.results import Forecast, MemoryUsage, QuotaPeriod, RestoreStep

__all__ = [
    "of_checkpoint",
    "of_diff",
    "of_forecast",
    "of_grant",
    "of_hold",
    "of_limits",
    "of_memory",
    "of_period",
    "of_plan",
    "of_project",
    "of_restore",
    "of_session",
    "of_skipped",
    "of_step",
    "of_usage",
    "of_user",
    "of_version",
]


def of_user(user: "User") -> dict[str, Any]:
    """Return a user, without the password."""
    return {
        "id": str(user.id),
        "email": user.email,
        "name": user.name,
        "plan": user.plan,
        "email_verified": user.email_verified,
        "password_changed_at": user.password_changed_at,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }


def of_session(session: "Session") -> dict[str, Any]:
    """Return a session, without its token."""
    return {
        "id": str(session.id),
        "user_id": str(session.user_id),
        "active": session.is_active,
        "ip": session.ip,
        "user_agent": session.user_agent,
        "created_at": session.created_at,
        "last_seen_at": session.last_seen_at,
        "expires_at": session.expires_at,
    }


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
    r"""Return the difference of one file; bytes that are not UTF-8 become `\xNN`."""
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
    """Return the effect of a restore on one file."""
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


def of_memory(memory: "MemoryUsage") -> dict[str, Any]:
    """Return the size of the stored contents and its limit."""
    return {"bytes": memory.bytes, "limit": memory.limit, "hard": memory.hard, "exceeded": memory.exceeded}


def of_plan(plan: "RestorePlan") -> dict[str, Any]:
    """Return the plan of a restore."""
    return {"target": plan.target, "reason": plan.reason, "steps": [of_step(step) for step in plan.steps]}


def of_restore(done: "Restore") -> dict[str, Any]:
    """Return the result of a restore."""
    changes = [{**change.to_json(), "path": to_text(change.path)} for change in done.changes]
    return {"id": str(done.id), "target": done.target, "undone_at": done.undone_at, "changes": changes}


def of_skipped(path: str, reason: str) -> dict[str, str]:
    """Return a file that could not be kept, and the reason."""
    return {"path": to_text(path), "reason": reason}


def exact(amount: Decimal | None) -> str | None:
    """Return dollars as text: a reader of JSON may turn numbers into floats."""
    return None if amount is None else f"{amount.normalize():f}"


def of_usage(usage: "Usage") -> dict[str, Any]:
    """Return the used, held and allowed amounts in every dimension but memory."""
    return {
        "period": {"start": usage.period_start, "end": usage.period_end, "time_zone": usage.time_zone},
        "tokens": {
            "used": usage.tokens_used,
            "held": usage.tokens_held,
            "limit": usage.tokens_limit,
            "granted": usage.tokens_granted,
        },
        "cost": {
            "used": exact(usage.cost_used),
            "held": exact(usage.cost_held),
            "limit": exact(usage.cost_limit),
            "granted": exact(usage.cost_granted),
        },
        "containers": {"held": usage.slots_held, "limit": usage.slots_limit},
        "requests_per_hour": {
            "used": usage.requests_last_hour,
            "held": usage.requests_held,
            "limit": usage.requests_limit,
        },
        "builds_per_day": {"used": usage.builds_today, "limit": usage.builds_limit},
        "overridden": list(usage.overridden),
        "waiting": usage.waiting,
    }


def of_limits(limits: "Limits") -> dict[str, Any]:
    """Return the limits of a plan."""
    return {
        "plan": limits.name,
        "tokens": limits.tokens,
        "cost": exact(limits.cost),
        "containers": limits.containers,
        "requests_per_hour": limits.requests_per_hour,
        "builds_per_day": limits.builds_per_day,
        "memory_bytes": limits.memory_bytes,
        "memory_hard": limits.memory_hard,
        "projects": limits.projects,
        "sessions": limits.sessions,
        "previews": limits.previews,
    }


def of_grant(grant: "TopUp") -> dict[str, Any]:
    """Return a top-up."""
    return {
        "id": str(grant.id),
        "tokens": grant.tokens,
        "cost": exact(grant.cost),
        "tokens_burned": grant.tokens_burned,
        "cost_burned": exact(grant.cost_burned),
        "reason": grant.reason,
        "created_at": grant.created_at,
        "expires_at": grant.expires_at,
        "closed_at": grant.closed_at,
    }


def of_hold(hold: "OpenReservation") -> dict[str, Any]:
    """Return a reservation that is not settled."""
    return {
        "id": str(hold.id),
        "holder": hold.holder,
        "tokens": hold.tokens,
        "cost": exact(hold.cost),
        "containers": hold.slots,
        "requests": hold.requests,
        "leased": hold.leased,
        "created_at": hold.created_at,
        "expires_at": hold.expires_at,
    }


def of_forecast(forecast: "Forecast") -> dict[str, Any]:
    """Return the time when the limits of the month are reached."""
    return {
        "tokens_per_day": forecast.tokens_per_day,
        "cost_per_day": exact(forecast.cost_per_day),
        "tokens_run_out_at": forecast.tokens_run_out_at,
        "cost_runs_out_at": forecast.cost_runs_out_at,
    }


def of_period(period: "QuotaPeriod") -> dict[str, Any]:
    """Return a month that has ended."""
    return {
        "start": period.period_start,
        "end": period.period_end,
        "tokens_used": period.tokens_used,
        "tokens_limit": period.tokens_limit,
        "cost_used": exact(period.cost_used),
        "cost_limit": exact(period.cost_limit),
        "closed_at": period.closed_at,
    }
