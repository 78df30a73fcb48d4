"""Name the project that a memory file in a home folder belongs to.

Claude Code keeps the memory of a project in `~/.claude/projects/<slug>/memory`. The slug is the path of the project's
folder, with `-` for every character but letters and digits. So a slug fits several paths: the folders that exist
decide.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

from attrs import define

from atlas_sdk.text import printable

_MEMORY = re.compile(r"\.claude/projects/([^/]+)/memory/")
_OTHER: Final = re.compile(r"[^A-Za-z0-9]")
#: The most folders to list for one slug.
_MOST_FOLDERS = 200


@define(slots=False)
class Owners:
    """The projects of the memory files in one home folder."""

    home: Path

    @cached_property
    def _found(self) -> dict[str, str | None]:
        return {}

    def find(self, path: str) -> str | None:
        """Return the folder whose memory a file is; None if the file is no project's, or the folder is gone."""
        matched = _MEMORY.match(path)
        if matched is None:
            return None
        slug = matched[1]
        if slug not in self._found:
            self._found[slug] = _folder_of(slug)
        return self._found[slug]

    def shown(self, path: str) -> str:
        """Return `of ~/code/app` for a file with a known project, else ""."""
        folder = self.find(path)
        if folder is None:
            return ""
        home = f"{self.home}/"
        return f"of {printable('~/' + folder.removeprefix(home) if folder.startswith(home) else folder)}"


def _folder_of(slug: str) -> str | None:
    budget = iter(range(_MOST_FOLDERS))
    return next(_fitting("/", slug.removeprefix("-"), budget), None) if slug.startswith("-") else None


def _fitting(folder: str, rest: str, budget: Iterator[int]) -> Iterator[str]:
    """Yield the folders below `folder` whose path has the slug `rest`, those with the longest first name first."""
    if next(budget, None) is None:
        return
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if rest.startswith(_OTHER.sub("-", entry.name)) and entry.is_dir()]
    except OSError:
        return
    for name in sorted(names, key=len, reverse=True):
        left = rest[len(name) :]
        path = f"{folder.rstrip('/')}/{name}"
        if not left:
            yield path
        elif left.startswith("-"):
            yield from _fitting(path, left[1:], budget)
