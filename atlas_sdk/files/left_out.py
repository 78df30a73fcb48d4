"""Names that are never memory: temporary files of tools, and folders of packages and of build results.

Each name is one that a tool documents or writes, so that no file of a person is left out by accident:
`notes/plan.tmp.v2.md` is memory, `CLAUDE.md.tmp.4242.1764500000000` is not.
"""

import re
from typing import Final

__all__ = ["FOLDERS", "TEMPORARY", "temporary_of"]

#: The temporary files of each tool: a pattern for the whole name.
TEMPORARY: Final[dict[str, str]] = {
    "AtlasEngine": r"\..*\.atlas-.*",
    "Claude Code": r".+\.tmp\.[0-9]+\.[0-9a-f]+",
    "Vim": r".+~|\..+\.sw[a-p]|4913",
    "Emacs": r"#.+#|\.#.+",
    "macOS": r"\._.+",
    "GNOME": r"\.goutputstream-.+",
    "JetBrains": r".+___jb_(?:tmp|old)___",
    "LibreOffice": r"\.~lock\..+#",
    "Syncthing": r"\.syncthing\..+\.tmp|~syncthing~.+\.tmp",
}
_NAMES = {tool: re.compile(pattern, re.DOTALL).fullmatch for tool, pattern in TEMPORARY.items()}
_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in TEMPORARY.values()), re.DOTALL).fullmatch

_PACKAGES = "holds packages of others"
_BUILT = "holds build results"
_CACHED = "is a cache"
#: The folders that the search for nested files does not enter, also where git does not ignore them. `build`, `out`,
#: `vendor` and the like are missing on purpose: people keep sources in folders of these names.
FOLDERS: Final[dict[str, str]] = {
    **dict.fromkeys(("node_modules", "bower_components", "jspm_packages", "site-packages", "Pods"), _PACKAGES),
    **dict.fromkeys((".venv", "venv", ".tox", ".nox", ".yarn", ".pnpm-store", ".bundle"), _PACKAGES),
    **dict.fromkeys(("target", "dist", "DerivedData", "_build", ".next", ".nuxt", ".svelte-kit", ".output"), _BUILT),
    **dict.fromkeys((".gradle", ".terraform", ".dart_tool", ".eggs", ".build", ".vercel", ".angular"), _BUILT),
    **dict.fromkeys(("__pycache__", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".turbo"), _CACHED),
    **dict.fromkeys((".parcel-cache", ".hypothesis", ".ipynb_checkpoints", ".direnv", ".nx"), _CACHED),
    **dict.fromkeys((".git", ".hg", ".svn", ".jj"), "belongs to version control"),
}


def temporary_of(name: str) -> str | None:
    """Return the tool whose temporary file has this name; None for the name of any other file."""
    if _ANY(name) is None:
        return None
    return next(tool for tool, matches in _NAMES.items() if matches(name))
