"""Tell why a file of a project is tracked, or why it is not."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from atlas_sdk.errors import AtlasError, FileProblem
from atlas_sdk.files.capture import entry
from atlas_sdk.files.left_out import temporary_of
from atlas_sdk.files.nested import ignored
from atlas_sdk.files.paths import printable
from atlas_sdk.files.presets import PRESETS, Kind
from atlas_sdk.files.problems import not_a_regular_file
from atlas_sdk.files.root import Root, hold, link_text
from atlas_sdk.files.safe_open import open_folder
from atlas_sdk.files.tracking import SETTINGS, Scan, Tracking
from atlas_sdk.files.walk import Walk

__all__ = ["Reason", "explain", "reasons"]


@frozen(kw_only=True)
class Reason:
    """A file, and why it is tracked or not."""

    path: str
    tracked: bool
    #: The rule for a tracked file: `preset claude`, `preset claude, nested`, `include docs/*.md`, `import of a.md`.
    #: Else the reason why the file is not tracked, in one sentence.
    reason: str
    #: What a tracked file has: instructions or notes.
    kind: Kind | None = None
    #: The text of the symlink, if the file is one.
    link: str | None = None


def reasons(root: Path | Root, tracking: Tracking, found: Scan) -> Iterator[Reason]:
    """Yield every tracked file of a scan, with the rule that tracks it."""
    with hold(root) as held:
        for path in found.paths:
            yield Reason(
                path=path,
                tracked=True,
                reason=_rule(tracking, found, path),
                kind=tracking.kind(path),
                link=_link(held, path),
            )


def explain(root: Path | Root, tracking: Tracking, path: str) -> Reason:
    """Return why one file is tracked, or why it is not. Raises FileProblem when the project cannot be read."""
    with hold(root) as held:
        found = tracking.scan(held)
        if path in found.paths:
            return next(one for one in reasons(held, tracking, found) if one.path == path)
        return Reason(path=path, tracked=False, reason=_why_not(held, tracking, found, path), link=_link(held, path))


def _rule(tracking: Tracking, found: Scan, path: str) -> str:
    rule = tracking.matching(path)
    if rule is None and path in found.nested:
        rule = tracking.matching_nested(path)
    importer = found.imported.get(path)
    return rule or f"import of {printable(importer or '')}"


def _why_not(root: Root, tracking: Tracking, found: Scan, path: str) -> str:
    shown = printable(path)
    known = next((one.reason for one in (*found.skipped, *found.lookalikes) if one.path == path), None)
    if known is not None:
        return known
    rule = tracking.matching(path) or tracking.matching_nested(path)
    glob = tracking.excluded_by(path)
    if glob is not None:
        return f"{shown} is excluded by exclude = {glob!r} under [track] in {SETTINGS}"
    tool = temporary_of(path.rpartition("/")[2])
    if tool is not None:
        return f"{shown} has the name of a temporary file of {tool}"
    return (
        _obstacle(root, tracking, path)
        or _switched_off(tracking, path)
        or (f"{shown} does not exist; {rule} would track it" if rule and _state(root, path) is None else None)
        or _unnamed(root, tracking, found, path)
    )


def _obstacle(root: Root, tracking: Tracking, path: str) -> str | None:
    """Return what keeps a file from being tracked although a rule may name it; None if nothing does."""
    shown = printable(path)
    try:
        parts = path.split("/")
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            above = entry(root, folder)
            if above is not None and stat.S_ISLNK(above.st_mode):
                return f"{shown}: {printable(folder)} is a symlink to a folder; Atlas does not follow those"
        state = _state(root, path)
        if state is not None and not stat.S_ISREG(state.st_mode) and not stat.S_ISLNK(state.st_mode):
            return str(not_a_regular_file(path, state.st_mode))
        if tracking.matching_nested(path) is None or tracking.matching(path) is not None:
            return None
        left_out = ignored(Walk(root, tracking.rules, lambda: 0.0), path)
    except (AtlasError, OSError) as problem:
        return str(problem) if isinstance(problem, FileProblem) else None
    return None if left_out is None else f"{shown}: the folder {printable(left_out[0])} {left_out[1]}"


def _switched_off(tracking: Tracking, path: str) -> str | None:
    """Return the preset or the key that would track a file and is switched off."""
    shown = printable(path)
    everything = Tracking(user=tracking.user)
    rule = everything.matching(path) or everything.matching_nested(path)
    if rule is None or rule == tracking.matching(path):
        return None
    name = rule.removeprefix("preset ").partition(",")[0]
    if name not in tracking.presets:
        return f"{shown} belongs to the preset {name}, which is not among the presets in {SETTINGS}"
    if not tracking.nested and rule.endswith("nested"):
        return f"{shown} is in a folder, and nested = false in {SETTINGS} switches the search of folders off"
    return None


def _unnamed(root: Root, tracking: Tracking, found: Scan, path: str) -> str:
    shown = printable(path)
    if not found.complete and any(one.path == "" for one in (*found.skipped, *found.lookalikes)):
        return next(one.reason for one in (*found.skipped, *found.lookalikes) if one.path == "")
    if _state(root, path) is None:
        return f"{shown} does not exist, and no preset or include names it"
    if tracking.user:
        # Suggest it for text alone: the folders of agents also hold credentials.
        hint = f"; add it under include in {SETTINGS}" if path.endswith((".md", ".mdc", ".txt")) else ""
        return f"{shown} is not one of the places of a user's memory{hint}"
    others = [name for name, preset in PRESETS.items() if any(path.endswith(f"/{glob}") for glob in preset.globs)]
    hint = f" (the preset {others[0]} names it in the project's own folder only)" if others else ""
    return f"no preset, include or @import names {shown}{hint}; add it under include in {SETTINGS}"


def _state(root: Root, path: str) -> os.stat_result | None:
    try:
        return entry(root, path)
    except AtlasError:
        return None


def _link(root: Root, path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    try:
        with open_folder(root, folder) as descriptor:
            return link_text(descriptor, name)
    except OSError:
        return None
