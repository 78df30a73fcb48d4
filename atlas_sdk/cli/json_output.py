"""Objects as JSON, with stable keys, full ids, and paths in the form that `atlas_sdk.files.from_text` reads."""

from typing import TYPE_CHECKING, Any

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
    from atlas_sdk.results import BrokenVersion, Forecast, MemoryUsage, QuotaPeriod, RestoreStep


def fields_of(thing: object, names: str, **others: Any) -> dict[str, Any]:
    """Return the fields that `names` lists, with spaces between them: from `others`, else the attribute of `thing`."""
    return {name: others[name] if name in others else getattr(thing, name) for name in names.split()}


def _path(path: str) -> str:
    from atlas_sdk.files import to_text

    return to_text(path)


def of_user(user: "User") -> dict[str, Any]:
    """Return the fields of a user, without the password."""
    return fields_of(user, "id email name plan email_verified password_changed_at created_at updated_at")


def of_session(session: "Session") -> dict[str, Any]:
    """Return the fields of a session, without its token."""
    names = "id user_id active ip user_agent created_at last_seen_at expires_at"
    return fields_of(session, names, active=session.is_active)


def of_project(project: "Project") -> dict[str, Any]:
    """Return the fields of a project."""
    return fields_of(project, "id name path status created_at", path=_path(project.path))


def of_version(version: "Snapshot") -> dict[str, Any]:
    """Return the fields of one version of a file, without its content."""
    return fields_of(
        version,
        "id path seq kind deleted size sha256 mode link attribution created_at",
        path=_path(version.path),
        mode=f"{version.mode:04o}",
        link=None if version.link is None else _path(version.link),
        attribution=version.attribution.to_json(),
    )


def of_checkpoint(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Return the fields of a checkpoint, with the number and the size of its files."""
    names = "id name kind note files size attribution created_at"
    return fields_of(checkpoint, names, attribution=checkpoint.attribution.to_json())


def of_diff(diff: "FileDiff") -> dict[str, Any]:
    r"""Return the difference of one file; bytes that are not UTF-8 become `\xNN`."""
    text = diff.text
    return fields_of(
        diff,
        "path change added_lines removed_lines text problem",
        path=_path(diff.path),
        text=None if text is None else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
    )


def of_step(step: "RestoreStep") -> dict[str, Any]:
    """Return the effect of a restore on one file."""
    names = "path action version size sha256 present_size present_sha256 added_lines removed_lines problem"
    return fields_of(step, names, path=_path(step.path), version=step.snapshot_id)


def of_memory(memory: "MemoryUsage") -> dict[str, Any]:
    """Return the size of the stored contents, and the memory limit."""
    return fields_of(memory, "bytes limit hard exceeded")


def of_plan(plan: "RestorePlan") -> dict[str, Any]:
    """Return the plan of a restore, with its effect on each file."""
    return fields_of(plan, "target reason steps", steps=[of_step(step) for step in plan.steps])


def of_broken(version: "BrokenVersion") -> dict[str, Any]:
    """Return a version that does not read back as it was stored."""
    names = "path version sha256 problem"
    return fields_of(version, names, path=_path(version.path), version=version.snapshot_id)


def of_restore(done: "Restore") -> dict[str, Any]:
    """Return a restore that was carried out, with the change of each file."""
    changes = [{**change.to_json(), "path": _path(change.path)} for change in done.changes]
    return fields_of(done, "id target undone_at changes", changes=changes)


def of_skipped(path: str, reason: str) -> dict[str, str]:
    """Return the path of a file that could not be stored, and the reason."""
    return {"path": _path(path), "reason": reason}


def of_usage(usage: "Usage") -> dict[str, Any]:
    """Return the used, held and allowed amounts in every dimension but memory."""
    return {
        "period": {"start": usage.period_start, "end": usage.period_end, "time_zone": usage.time_zone},
        **{
            kind: {part: getattr(usage, f"{kind}_{part}") for part in ("used", "held", "limit", "granted")}
            for kind in ("tokens", "cost")
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
    """Return the limits that a plan sets for its users."""
    names = "plan tokens cost containers requests_per_hour builds_per_day memory_bytes memory_hard"
    return fields_of(limits, f"{names} projects sessions previews", plan=limits.name)


def of_grant(grant: "TopUp") -> dict[str, Any]:
    """Return a top-up, with the amounts that are used of it."""
    return fields_of(grant, "id tokens cost tokens_burned cost_burned reason created_at expires_at closed_at")


def of_hold(hold: "OpenReservation") -> dict[str, Any]:
    """Return a reservation that is not settled."""
    names = "id holder tokens cost containers requests leased created_at expires_at"
    return fields_of(hold, names, containers=hold.slots)


def of_forecast(forecast: "Forecast") -> dict[str, Any]:
    """Return the present rates of use, and the times when the month's tokens and dollars run out."""
    return fields_of(forecast, "tokens_per_day cost_per_day tokens_run_out_at cost_runs_out_at")


def of_period(period: "QuotaPeriod") -> dict[str, Any]:
    """Return the use and the limits of a month that has ended."""
    names = "start end tokens_used tokens_limit cost_used cost_limit closed_at"
    return fields_of(period, names, start=period.period_start, end=period.period_end)
