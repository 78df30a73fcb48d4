"""Write the tables of docs/memory-files.md from the presets: run this file after a change of them."""

from __future__ import annotations

from pathlib import Path

from atlas_sdk.files.left_out import FOLDERS, TEMPORARY
from atlas_sdk.files.presets import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "memory-files.md"
#: The lines between which the tables stand.
_BEGIN, _END = "<!-- made by tests/memory_page.py: {} -->\n", "<!-- end of {} -->\n"
#: One example for the pattern of each tool.
_EXAMPLES = {
    "AtlasEngine": ".CLAUDE.md.atlas-0123456789abcdef",
    "Claude Code": "CLAUDE.md.tmp.4242.1764500000000",
    "Vim": "CLAUDE.md~ .CLAUDE.md.swp 4913",
    "Emacs": "#CLAUDE.md# .#CLAUDE.md",
    "macOS": "._CLAUDE.md",
    "GNOME": ".goutputstream-X1Y2Z3",
    "JetBrains": "CLAUDE.md___jb_tmp___ CLAUDE.md___jb_old___",
    "LibreOffice": ".~lock.CLAUDE.md#",
    "Syncthing": ".syncthing.CLAUDE.md.tmp",
}


def page(text: str) -> str:
    """Return the page with the tables of the present presets."""
    for name, lines in (
        ("presets", _presets()),
        ("user", _user()),
        ("temporary", _temporary()),
        ("folders", _folders()),
    ):
        begin, end = _BEGIN.format(name), _END.format(name)
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + "".join(f"{line}\n" for line in lines) + "\n" + end + rest.partition(end)[2]
    return text


def _presets() -> list[str]:
    lines = ["| preset | instructions | notes | source |", "|---|---|---|---|"]
    for name, preset in PRESETS.items():
        instructions, notes = (
            " ".join(f"**`{glob}`**" if glob in preset.nested else f"`{glob}`" for glob in globs)
            for globs in (preset.instructions, preset.notes)
        )
        if instructions or notes:
            lines.append(f"| `{name}` | {instructions} | {notes} | {preset.source} |")
    return lines


def _user() -> list[str]:
    lines = ["| preset | instructions | notes |", "|---|---|---|"]
    for name, preset in PRESETS.items():
        if preset.user_globs:
            instructions, notes = (
                " ".join(f"`~/{glob}`" for glob in globs) for globs in (preset.user_instructions, preset.user_notes)
            )
            lines.append(f"| `{name}` | {instructions} | {notes} |")
    return lines


def _temporary() -> list[str]:
    lines = ["| tool | its temporary files |", "|---|---|"]
    return lines + [f"| {tool} | {' '.join(f'`{name}`' for name in _EXAMPLES[tool].split())} |" for tool in TEMPORARY]


def _folders() -> list[str]:
    reasons = dict.fromkeys(FOLDERS.values())
    return [
        f"- {reason}: " + ", ".join(f"`{name}`" for name, why in FOLDERS.items() if why == reason) for reason in reasons
    ]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
