"""The tables of docs/operations.md: our names for the original's operations, and all operations of the clients.

`python tests/reference.py` writes the second table anew; a test compares it with the real classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Any, NamedTuple, Self, get_args, get_origin

from atlas_sdk import client, topics
from atlas_sdk.model.maintenance import MAINTENANCE_JOBS

DOCUMENT = Path(__file__).parents[1] / "docs" / "operations.md"
BEGIN, END = "<!-- the reference: python tests/reference.py -->", "<!-- the end of the reference -->"

#: Each topic of a client and its class.
TOPICS: dict[str, type] = {
    "users": topics.Users,
    "sessions": topics.Sessions,
    "projects": topics.Projects,
    "memory": topics.Memory,
    "quotas": topics.Quotas,
    "builds": topics.Builds,
    "previews": topics.Previews,
    "usage": topics.UsageLedger,
    "events": topics.Events,
    "maintenance": topics.Maintenance,
    "schema": topics.Schema,
}

_JOBS = tuple(f"maintenance.{job}" for job in MAINTENANCE_JOBS)

#: Operations on record and the types of the events that they write.
EVENTS: dict[str, tuple[str, ...]] = {
    "users.create": ("user.created",),
    "users.local": ("user.created",),
    "users.set_plan": ("user.plan_changed",),
    "users.verify_email": ("user.email_verified",),
    "users.update": ("user.updated",),
    "users.delete": ("user.deleted",),
    "users.authenticate": ("user.signed_in", "user.sign_in_failed"),
    "users.set_password": ("user.password_changed", "session.all_revoked"),
    "sessions.issue": ("session.issued",),
    "sessions.revoke": ("session.revoked",),
    "sessions.revoke_all": ("session.all_revoked",),
    "sessions.purge_expired": ("maintenance.sessions",),
    "projects.create": ("project.created",),
    "projects.archive": ("project.archived",),
    "projects.activate": ("project.activated",),
    "projects.move": ("project.moved", "project.deleted"),
    "projects.set_status": ("project.activated", "project.archived", "project.deleted"),
    "projects.delete": ("project.deleted", "preview.stopped", "build.failed"),
    "projects.purge": ("project.purged",),
    "projects.update_memory": ("project.memory_updated",),
    "memory.checkpoint": ("checkpoint.created",),
    "memory.restore": ("memory.restore",),
    "memory.undo": ("memory.undo",),
    "memory.redo": ("memory.redo",),
    "builds.create": ("build.created",),
    "builds.start": ("build.started",),
    "builds.succeed": ("build.succeeded",),
    "builds.fail": ("build.failed",),
    "previews.create": ("preview.created",),
    "previews.set_status": (
        "preview.running",
        "preview.sleeping",
        "preview.stopped",
        "preview.failed",
        "preview.changed",
    ),
    "previews.stop": ("preview.stopped",),
    "previews.put_to_sleep_idle": ("preview.sleeping",),
    "previews.allocate_port": ("preview.port_allocated",),
    "previews.release_port": ("preview.port_released",),
    "quotas.set_limits": ("quota.limits_changed",),
    "quotas.use_plan_limits": ("quota.limits_of_plan",),
    "quotas.set_time_zone": ("quota.time_zone_changed",),
    "quotas.add_plan": ("quota.plan_limits_changed",),
    "quotas.set_plan_limits": ("quota.plan_limits_changed",),
    "quotas.grant": ("quota.granted",),
    "quotas.refund": ("quota.refunded",),
    "quotas.record_memory_threshold": ("quota.memory",),
    "events.log": ("your own",),
    "maintenance.run": _JOBS,
    "maintenance.run_if_due": _JOBS,
    "quotas.reset_monthly": ("maintenance.periods",),
    "maintenance.close_periods": ("maintenance.periods",),
    "maintenance.reclaim_reservations": ("maintenance.reservations",),
    "maintenance.purge_sessions": ("maintenance.sessions",),
    "maintenance.purge_previews": ("maintenance.previews",),
    "maintenance.purge_claims": ("maintenance.claims",),
    "maintenance.purge_events": ("maintenance.events",),
    "maintenance.prune_snapshots": ("maintenance.snapshots",),
    "maintenance.collect_contents": ("maintenance.contents",),
    "maintenance.sum_usage": ("maintenance.usage",),
}

_LEDGER = "the ledger"
_HISTORY = "the history"
_TOUCH = "nothing"

#: Operations that change something and write no event, with the record that they write instead. Those with "nothing"
#: run at every request or clean up.
SILENT: dict[str, str] = {
    "sessions.touch": _TOUCH,
    "projects.touch": _TOUCH,
    "memory.remove_leftovers": _TOUCH,
    "previews.touch": _TOUCH,
    "builds.append_log": "the log",
    "memory.snapshot": _HISTORY,
    "memory.snapshot_many": _HISTORY,
    "memory.deliver": _HISTORY,
    "memory.capture": _HISTORY,
    "memory.delete": _HISTORY,
    "usage.log": _LEDGER,
    "quotas.guard": _LEDGER,
    "quotas.slot": _LEDGER,
    "quotas.lease": _LEDGER,
    "quotas.reserve": _LEDGER,
    "quotas.settle": _LEDGER,
    "quotas.release": _LEDGER,
    "quotas.extend": _LEDGER,
    "quotas.progress": _LEDGER,
    "quotas.add_tokens": _LEDGER,
    "quotas.lease_block": _LEDGER,
    "quotas.hit": _LEDGER,
    "quotas.settle_pending": _LEDGER,
    "quotas.close": _LEDGER,
    "schema.migrate": "`schema_version`",
}

#: Operations that change nothing.
READS = {
    *("users.get", "users.by_email", "users.find_local", "users.list", "users.usage_summary"),
    *("sessions.verify", "sessions.list"),
    *(
        "projects.get",
        "projects.by_path",
        "projects.find_moved",
        "projects.by_session",
        "projects.at",
        "projects.list",
        "projects.health",
    ),
    *("memory.files", "memory.heads", "memory.history", "memory.resolve", "memory.version"),
    *("memory.read", "memory.content"),
    *("memory.diff", "memory.checkpoints", "memory.plan_restore", "memory.plan_undo", "memory.plan_redo"),
    "memory.verify",
    *("quotas.get", "quotas.usage", "quotas.check", "quotas.reservations", "quotas.history", "quotas.forecast"),
    *("quotas.verify", "quotas.plans", "quotas.plan_limits", "quotas.grants", "quotas.memory"),
    *("builds.log", "builds.get", "builds.list", "builds.stats"),
    *("previews.active", "previews.by_host", "previews.get", "previews.list"),
    "usage.totals",
    *("events.recent", "events.search"),
    "maintenance.runs",
    *("schema.status", "schema.check", "schema.server"),
}


class Row(NamedTuple):
    """A row of the first table."""

    name: str
    ours: str
    example: str


def cells(text: str, columns: int) -> Iterator[list[str]]:
    """Yield the rows of all tables with so many columns, without their heads and separator lines."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        found = [cell.strip() for cell in line.strip("|").split(" | ")]
        is_row = line.startswith("| ") and len(found) == columns and not lines[number + 1].startswith("|--")
        if is_row:
            yield found


def original_names() -> list[Row]:
    """Return the first table of the document."""
    text = DOCUMENT.read_text("utf-8").partition("\n## Events")[0]
    return [Row(*(cell.strip("`") for cell in row)) for row in cells(text, 3)]


def event_types() -> list[str]:
    """Return the event types in the document."""
    text = DOCUMENT.read_text("utf-8").partition("\n## Events")[2].partition("\n## ")[0]
    return [name for row in cells(text, 2) for name in re.findall(r"`([a-z]+\.[a-z_]+)`", row[0])]


def operations() -> dict[str, Callable[..., Any]]:
    """Return every public operation of every topic."""
    found = {}
    for topic, face in TOPICS.items():
        kinds = [kind for kind in reversed(face.__mro__) if kind is not object]
        for name in dict.fromkeys(name for kind in kinds for name in vars(kind)):
            if not name.startswith("_"):
                found[f"{topic}.{name}"] = getattr(face, name)
    return found


def _shown(kind: Any) -> str:
    """Return a type as people write it."""
    if kind is None or kind is NoneType:
        return "None"
    if kind is Self:
        return "Atlas"
    if isinstance(kind, UnionType) or get_origin(kind) is UnionType:
        return " or ".join(_shown(part) for part in get_args(kind))
    arguments = [part for part in get_args(kind) if part is not ...]
    if isinstance(kind, GenericAlias) or arguments:
        name = getattr(get_origin(kind), "__name__", str(kind)).removeprefix("Abstract")
        return f"{name} of {', '.join(_shown(part) for part in arguments)}"
    if isinstance(kind, str):
        return kind.strip('"')
    return getattr(kind, "__name__", str(kind))


def _result(operation: Callable[..., Any]) -> str:
    """Return the type of an operation's result."""
    return _shown(inspect.signature(operation).return_annotation)


def _call(name: str, operation: Callable[..., Any]) -> str:
    """Return the call of an operation; "=" marks parameters with a default."""
    parts, keywords = [], False
    for parameter in inspect.signature(operation).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            parts.append(f"**{parameter.name}")
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            parts.append("*")
        parts.append(parameter.name + ("" if parameter.default is parameter.empty else "="))
    return f"`{name}({', '.join(parts)})`"


def _sentence(operation: Callable[..., Any]) -> str:
    """Return the first sentence of an operation's docstring."""
    text = " ".join((inspect.getdoc(operation) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0].replace("|", "or")


def _trace(name: str) -> str:
    if EVENTS.get(name) == _JOBS:
        return "`maintenance.` and each job"
    if name in EVENTS:
        return ", ".join(f"`{kind}`" if "." in kind else kind for kind in EVENTS[name])
    return SILENT.get(name, "")


_HEAD = ["| operation | returns | what it does | on record as |", "|---|---|---|---|"]


def _of_client() -> list[str]:
    """Return the rows of a client's own methods and properties, besides its topics."""
    rows = []
    for name in dict.fromkeys(name for kind in client.Atlas.__mro__ if kind is not object for name in vars(kind)):
        member = getattr(client.Atlas, name)
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            assert member.fget is not None
            rows.append(f"| `{name}` | {_result(member.fget)} | {_sentence(member)} |  |")
        else:
            rows.append(f"| {_call(name, member)} | {_result(member)} | {_sentence(member)} |  |")
    return rows


def reference() -> str:
    """Return the second table, with one part for each topic."""
    found = operations()
    lines = ["### `atlas`", "", "The client itself.", "", *_HEAD, *_of_client(), ""]
    for topic, face in TOPICS.items():
        # Take the first paragraph only. Some have a second one, about transactions, which the page explains once.
        about = " ".join((inspect.getdoc(face) or "").split("\n\n")[0].split())
        lines += [f"### `atlas.{topic}`", "", about, "", *_HEAD]
        for name, operation in found.items():
            if name.startswith(f"{topic}."):
                call = _call(name.partition(".")[2], operation)
                lines += [f"| {call} | {_result(operation)} | {_sentence(operation)} | {_trace(name)} |"]
        lines += [""]
    return "\n".join(lines)


def written(text: str) -> str:
    """Return the document with the current reference."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, BEGIN
    assert end, END
    return f"{head}{BEGIN}\n\n{reference()}\n{END}{tail}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")
