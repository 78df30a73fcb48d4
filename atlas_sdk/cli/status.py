"""`atlasctl status`: show for each memory file whether the file is protected."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from atlas_sdk import AtlasError
from atlas_sdk.cli.capturing import note_lookalikes
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import fields_of, of_memory, of_project, of_skipped
from atlas_sdk.cli.output import Output, count, size
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, Snapshot
    from atlas_sdk.files import FileState, Signature
    from atlas_sdk.results import MemoryUsage
    from watcher.status import ProjectStatus, Status

#: The states of a file that is not protected. "changed" and "new": no watcher captures the file, or the watcher should
#: have captured it by now. "unkept": the file is over the size limit, so only its hash is stored. "problem": Atlas
#: cannot read the file, or must not follow a symlink. The other states: "protected": the content is stored. "pending":
#: the watcher is about to capture the file. "gone": the file was deleted, and its last content is stored. "untracked":
#: the rules do not track the file any more; its history is kept.
_AT_RISK: Final = frozenset({"changed", "new", "unkept", "problem"})
#: The state of a file that looks like memory. It is not protected, and no fault: the exit code stays 0.
_NOT_TRACKED: Final = "not_tracked"
#: A running watcher captures a change within seconds, so the watcher has missed a change that is older than this.
_YOUNG_S: Final = 10.0


@click.command(cls=Command, examples=("atlasctl status", "atlasctl status --all", "atlasctl status --json"))
@click.option("--all", "everything", is_flag=True, help="Every project of yours, not only this one.")
@pass_run
def status(run: Invocation, *, everything: bool) -> int:
    """Tell for every memory file whether it is protected now.

    A file is protected when its present content is stored. Exits with 6 when one is not: it differs from its newest
    version and no watcher is about to capture it, it cannot be read, or it is over the size limit. A change is pending
    for ten seconds while a running watcher watches the project without a problem. Also shows how much of the memory
    limit is used; above it nothing is refused, unless the limit is hard.
    """
    watcher = _watcher(run)
    # Take the time before the database opens, which can take longer than `FRESH_S`: a working watcher would seem to
    # hang.
    now = datetime.now(UTC)
    at_work = watcher if watcher is not None and watcher.is_fresh(now) else None
    with run.opened() as atlas:
        projects = atlas.projects.list(run.owner(atlas)) if everything else [run.project(atlas)]
        reports = [(project, _report(atlas, project, at_work)) for project in projects]
        memory = atlas.quotas.memory(run.owner(atlas))
    at_risk = [entry for _, files in reports for entry in files if entry["state"] in _AT_RISK]
    if run.out.json:
        _print_json(run, watcher, reports, memory, now=now, protected=not at_risk)
    else:
        _show(run, watcher, reports, memory, now=now, at_risk=len(at_risk))
    return NOT_PROTECTED if at_risk else 0


def _watcher(run: Invocation) -> "Status | None":
    from watcher.status import read_status

    return read_status(run.settings.folder)


def _report(atlas: "Atlas", project: "Project", at_work: "Status | None") -> list[dict[str, Any]]:
    """Return an entry for every memory file: present, deleted or unreadable."""
    from atlas_sdk.files import Tracking

    root = Path(project.path)
    watched = _watched(at_work, project)
    newest = {version.path: version for version in atlas.memory.files(project)}
    try:
        tracking = Tracking.load(root)
        scan = tracking.scan(root)
    except AtlasError as problem:
        return [_entry(".", "problem", problem=str(problem))]
    entries = [_entry(skipped.path or ".", "problem", problem=skipped.reason) for skipped in scan.skipped]
    entries += [_entry(link.path, "gone", version=newest.get(link.path), problem=link.reason) for link in scan.dangling]
    entries += [_entry(one.path or ".", _NOT_TRACKED, problem=one.reason) for one in scan.lookalikes]
    known = {path for path, version in newest.items() if not version.deleted}
    unseen = known - set(scan.paths) - {str(entry["path"]) for entry in entries}
    entries += [
        _entry(path, "untracked", version=newest[path])
        for path in unseen
        if scan.untracks(path) and _is_gone(root, path) is False
    ]
    unseen -= {str(entry["path"]) for entry in entries}
    awaited = watched is not None and not watched.lost and watched.problem is None
    entries += [_file(root, path, newest.get(path), tracking, awaited=awaited) for path in (*scan.paths, *unseen)]
    if watched is not None:
        problems = {file.path: file.problem for file in watched.files if file.problem is not None}
        for entry in entries:
            if entry["state"] in {"pending", "changed", "new"} and entry["path"] in problems:
                entry |= {"state": "problem", "problem": problems[entry["path"]]}
        if not awaited:
            entries.append(_entry(".", "problem", problem=f"the watcher: {watched.problem or 'the folder is lost'}"))
    return sorted(entries, key=lambda entry: str(entry["path"]))


def _is_gone(root: Path, path: str) -> bool | None:
    """Return whether a recorded file is gone; None when the call cannot tell."""
    from atlas_sdk.files import is_gone

    try:
        return is_gone(root, path)
    except AtlasError:
        return None


def _watched(at_work: "Status | None", project: "Project") -> "ProjectStatus | None":
    """Return a running watcher's status of a project; None when no watcher watches it."""
    if at_work is None:
        return None
    # The watcher of this home may use another database. Then the watcher does not know this project.
    return next((one for one in at_work.projects if one.id == str(project.id)), None)


def _file(root: Path, path: str, version: "Snapshot | None", tracking: Any, *, awaited: bool) -> dict[str, Any]:
    from atlas_sdk.files import read_file

    try:
        found = read_file(root, path, limit_bytes=tracking.limit_bytes)
    except AtlasError as problem:
        if not _is_gone(root, path):
            return _entry(path, "problem", version=version, problem=str(problem))
        # A folder has the place of a recorded file.
        found = None
    if found is None:
        return _entry(path, "gone", version=version)
    if version is None or not _is_on_record(found, version):
        state = "pending" if awaited and _is_young(found.signature) else "new" if version is None else "changed"
        return _entry(path, state, version=version, size=found.size)
    if found.content is None and version.kept is not True:
        reason = f"over the size limit of {tracking.limit_bytes:,} bytes: only its hash is on record"
        return _entry(path, "unkept", version=version, size=found.size, problem=reason)
    if version.kept is False:
        reason = "it was over the size limit: only its hash is on record; atlasctl snapshot keeps it now"
        return _entry(path, "unkept", version=version, size=found.size, problem=reason)
    return _entry(path, "protected", version=version, size=found.size)


def _is_young(signature: "Signature") -> bool:
    """Return whether a file has changed within 10 s. An `mtime` far in the future does not count: it can be forged."""
    now_ns = time.time_ns()
    return any(abs(now_ns - at_ns) < _YOUNG_S * 1e9 for at_ns in (signature.mtime_ns, signature.ctime_ns))


def _is_on_record(found: "FileState", version: "Snapshot") -> bool:
    return (version.sha256, version.mode, version.link) == (found.sha256.hex(), found.mode, found.link)


def _entry(
    path: str, state: str, *, version: "Snapshot | None" = None, size: int | None = None, problem: str | None = None
) -> dict[str, Any]:
    known = (
        {"version": None, "since": None} if version is None else {"version": version.id, "since": version.created_at}
    )
    return {"path": path, "state": state, "size": size, **known, "problem": problem}


def _print_json(
    run: Invocation,
    watcher: "Status | None",
    reports: "list[tuple[Project, list[dict[str, Any]]]]",
    memory: "MemoryUsage",
    *,
    now: datetime,
    protected: bool,
) -> None:
    from atlas_sdk.files import to_text

    about_watcher: dict[str, Any] = {"running": watcher is not None}
    if watcher is not None:
        about_watcher |= fields_of(
            watcher,
            "pid started_at written_at responding ready database_ok database_problem pending",
            responding=watcher.is_fresh(now),
            database_ok=watcher.database.ok,
            database_problem=watcher.database.problem,
        )
    projects = [
        {
            **of_project(project),
            "files": [{**entry, "path": to_text(str(entry["path"]))} for entry in _tracked(files)],
            "not_tracked": [of_skipped(path, reason) for path, reason in _lookalikes(files)],
        }
        for project, files in reports
    ]
    run.out.record(
        {"protected": protected, "watcher": about_watcher, "memory": of_memory(memory), "projects": projects}
    )


def _tracked(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in files if entry["state"] != _NOT_TRACKED]


def _lookalikes(files: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(str(entry["path"]), str(entry["problem"])) for entry in files if entry["state"] == _NOT_TRACKED]


def _show_memory(out: Output, memory: "MemoryUsage") -> None:
    # Write the limit without ".0", because it is mostly a round number.
    limit = None if memory.limit is None else size(memory.limit).replace(".0 ", " ")
    out.line(f"memory   {size(memory.bytes)}{'' if limit is None else f' of {limit}'} stored")
    if memory.limit is None or not memory.level:
        return
    if memory.hard:
        out.warn(f"{size(memory.remaining or 0)} of the memory limit are left; new content above it is refused")
    elif memory.exceeded:
        out.warn(f"more is stored than the memory limit of {limit}; nothing is refused for it")
    else:
        out.warn(f"{memory.bytes / memory.limit:.0%} of the memory limit is stored")


def _show(
    run: Invocation,
    watcher: "Status | None",
    reports: "list[tuple[Project, list[dict[str, Any]]]]",
    memory: "MemoryUsage",
    *,
    now: datetime,
    at_risk: int,
) -> None:
    from atlas_sdk.files import NOT_TRACKED

    out = run.out
    if watcher is None:
        out.line("watcher  not running; atlasctl watch starts it")
    else:
        out.line(f"watcher  running since {out.when(watcher.started_at)}, process {watcher.pid}")
        if not watcher.is_fresh(now):
            out.warn(f"the watcher has said nothing for {watcher.age_s(now):,.0f} s: it is stopped, or it hangs")
        else:
            for project, _ in reports:
                if _watched(watcher, project) is None:
                    shown = printable(project.path)
                    out.warn(f"the watcher does not know {shown}: it has just started, or has another database")
        if watcher.database.problem is not None:
            out.warn(watcher.database.problem)
    _show_memory(out, memory)
    for project, files in reports:
        out.line()
        out.line(out.style(printable(project.path), bold=True))
        for entry in _tracked(files):
            if entry["problem"] is not None:
                out.warn(str(entry["problem"]))
        out.table(
            [
                (
                    "",
                    printable(str(entry["path"])),
                    NOT_TRACKED if entry["state"] == "untracked" else str(entry["state"]),
                    "" if entry["size"] is None else size(int(entry["size"])),
                    "no version yet" if entry["since"] is None else out.when(entry["since"]),
                )
                for entry in _tracked(files)
            ],
            styles=("", "", "bold", "dim", "dim"),
        )
        note_lookalikes(out, _lookalikes(files))
    if at_risk:
        out.note(f"\n{count(at_risk, 'file')} not protected; atlasctl snapshot captures what can be captured")
