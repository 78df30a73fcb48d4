"""Print the report of `atlasctl status`: for people, or as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas_sdk.cli.capturing import note_lookalikes
from atlas_sdk.cli.file_states import RECENT, STATES, Entry
from atlas_sdk.cli.folders import worktree_of
from atlas_sdk.cli.json_output import fields_of, of_memory, of_project, of_skipped
from atlas_sdk.cli.output import Output, count, size
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Project
    from atlas_sdk.cli.status_report import Report
    from atlas_sdk.results import MemoryUsage
    from watcher.status import PolledFolder, Status


def fields_of_report(report: "Report") -> dict[str, Any]:
    """Return the report as JSON; docs/status.md describes the fields."""
    watcher: dict[str, Any] = {"running": report.watcher is not None}
    if report.watcher is not None:
        watcher |= fields_of(
            report.watcher,
            "pid started_at written_at responding ready backend database_ok database_problem pending oldest_pending_at "
            "counters polled_folders",
            responding=report.is_responding,
            database_ok=report.watcher.database.ok,
            database_problem=report.watcher.database.problem,
            counters=dict(report.watcher.counters),
            polled_folders=sum(len(project.polled) for project in report.watcher.projects),
        )
    return {
        "protected": not report.at_risk,
        "watcher": watcher,
        "journal": fields_of(report.journal, "records bytes oldest_at held_back dropped problem"),
        "database": {"ok": report.database_problem is None, "problem": report.database_problem},
        "memory": None if report.memory is None else of_memory(report.memory),
        "projects": [
            {**_fields_of_project(*one), "polled": [_fields_of_polled(folder) for folder in report.polled(one[0])]}
            for one in report.projects
        ],
    }


def _fields_of_project(project: "Project", entries: list[Entry], watched: bool) -> dict[str, Any]:  # noqa: FBT001 - a part of a row
    from atlas_sdk.files import to_text

    main = worktree_of(project)
    return {
        **of_project(project),
        "had_folder": project.had_folder,
        "worktree_of": None if main is None else to_text(main),
        "watched": watched,
        "files": [
            fields_of(one, "path state since why size version", path=to_text(one.path))
            for one in entries
            if one.is_memory
        ],
        "not_tracked": [of_skipped(one.path, one.why or "") for one in entries if not one.is_memory],
    }


def _fields_of_polled(folder: "PolledFolder") -> dict[str, Any]:
    from atlas_sdk.files import to_text

    return {"path": to_text(folder.path or "."), "reason": folder.reason}


def show(out: Output, report: "Report") -> None:
    """Print the report for people."""
    _show_watcher(out, report)
    _show_journal(out, report)
    if report.database_problem is not None:
        out.line("database  away; the journal of this machine tells the rest")
        out.warn(report.database_problem)
    if report.memory is not None:
        _show_memory(out, report.memory)
    for project, entries, _ in report.projects:
        _show_project(out, project, entries)
        _show_polled(out, report.polled(project))
    _show_advice(out, report)


def _show_watcher(out: Output, report: "Report") -> None:
    watcher = report.watcher
    if watcher is None:
        out.line("watcher   not running")
        return
    out.line(f"watcher   running since {out.when(watcher.started_at)}, process {watcher.pid}")
    if not report.is_responding:
        out.warn(f"the watcher has said nothing for {watcher.age_s(report.now):,.0f} s: it is stopped, or it hangs")
    else:
        for project, entries, _ in report.projects:
            if not report.knows(project) and any(one.at_risk for one in entries):
                shown = printable(project.path)
                out.warn(f"the watcher does not know {shown}: it has just started, or has another database")
    if watcher.counters:
        out.line(f"          {_numbers(out, watcher)}")
    if watcher.database.problem is not None and watcher.database.problem != report.database_problem:
        out.warn(watcher.database.problem)


def _numbers(out: Output, watcher: "Status") -> str:
    counters = watcher.counters
    waiting = f"{watcher.pending:,} waiting"
    if watcher.oldest_pending_at is not None:
        waiting += f" since {out.when(watcher.oldest_pending_at)}"
    polled = sum(len(project.polled) for project in watcher.projects)
    parts = [count(counters.get("events", 0), "event"), count(counters.get("overflows", 0), "overflow"), waiting]
    return ", ".join([*parts, *([f"{count(polled, 'folder')} polled"] if polled else [])])


def _show_journal(out: Output, report: "Report") -> None:
    journal = report.journal
    if journal.records:
        since = "" if journal.oldest_at is None else f"; the oldest: {out.when(journal.oldest_at)}"
        what = f"{count(journal.records, 'version')}, {size(journal.bytes)}, saved here, not in the database yet"
        out.line(f"journal   {what}{since}")
    if journal.held_back:
        out.warn(f"the database refuses {count(journal.held_back, 'version')}: {journal.problem}")
    elif journal.problem is not None:
        out.warn(journal.problem)
    if journal.dropped:
        out.warn(f"the journal was full: {count(journal.dropped, 'version')} between two others were dropped")


def _show_memory(out: Output, memory: "MemoryUsage") -> None:
    # Write the limit without ".0", because it is mostly a round number.
    limit = None if memory.limit is None else size(memory.limit).replace(".0 ", " ")
    out.line(f"memory    {size(memory.bytes)}{'' if limit is None else f' of {limit}'} stored")
    if memory.limit is None or not memory.level:
        return
    if memory.hard:
        out.warn(f"{size(memory.remaining or 0)} of the memory limit are left; new content above it is refused")
    elif memory.exceeded:
        out.warn(f"more is stored than the memory limit of {limit}; nothing is refused for it")
    else:
        out.warn(f"{memory.bytes / memory.limit:.0%} of the memory limit is stored")


def _show_project(out: Output, project: "Project", entries: Sequence[Entry]) -> None:

    out.line()
    out.line(out.style(printable(project.path), bold=True))
    main = worktree_of(project)
    if main is not None:
        out.line(f"  a git worktree of {printable(main)}")
    if not project.had_folder and not any(one.state != "saved" for one in entries):
        out.line("  no folder on this machine")
    for one in entries:
        if one.at_risk and one.why is not None:
            shown = printable(one.path)
            # Most problems name the file, and those of the project need no name.
            out.warn(one.why if one.path == "." or shown in one.why else f"{shown}: {one.why}")
    out.table(
        [
            (
                "",
                printable(one.path),
                STATES[one.state][0],
                "" if one.size is None else size(one.size),
                "" if one.since is None else out.when(one.since),
            )
            for one in entries
            if one.is_memory
        ],
        styles=("", "", "bold", "dim", "dim"),
    )
    for one in entries:
        if one.state in {"deleted", "not_tracked"} and one.is_memory and one.why is not None:
            out.note(f"  {one.why if printable(one.path) in one.why else f'{printable(one.path)}: {one.why}'}")
    if any(one.state == "deleted" for one in entries):
        out.note(f"  deletions of the last {RECENT.days} days: atlasctl log FILE lists the versions of a file, and")
        out.note("  atlasctl restore FILE@VERSION brings one back")
    note_lookalikes(out, [(one.path, one.why or "") for one in entries if not one.is_memory])


def _show_polled(out: Output, folders: "Sequence[PolledFolder]") -> None:
    """Name the folders that the watcher polls, one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for one in folders:
        by_reason.setdefault(one.reason, []).append(printable(one.path or "."))
    for reason, paths in by_reason.items():
        more = f" and {count(len(paths) - 1, 'more folder')}" if len(paths) > 1 else ""
        out.note(f"  polled: {paths[0]}{more}: {printable(reason)}")


def _show_advice(out: Output, report: "Report") -> None:
    files = [one for one in report.at_risk if one.path != "."]
    unwatched = [one for one in files if one.state == "saved_not_watched"]
    lost = [one for one in files if one.state == "lost"]
    unsaved = len(files) - len(unwatched) - len(lost)
    if unwatched:
        start = "; to start the watcher: atlasctl service install, or atlasctl watch"
        if report.watcher is not None:
            start = "" if report.is_responding else "; restart the watcher"
        out.note(f"\n{count(len(unwatched), 'file')} saved, not watched: the next change is not captured{start}")
    if lost:
        moved = "if the folder was moved: atlasctl projects move OLD NEW"
        out.note(f"\n{count(len(lost), 'file')} lost, with all saved versions kept; {moved}")
    if unsaved:
        out.note(f"\n{count(unsaved, 'file')} not protected; atlasctl snapshot captures what can be captured")
