"""Programs that stand for systemd and launchd: they record their calls."""

from __future__ import annotations

from pathlib import Path

#: A program that records its arguments, prints the file `<name>.out` and exits with the number in `<name>.code`.
_FAKE = """#!/bin/sh
folder=${0%/*}
name=${0##*/}
printf '%s' "$name" >>"$folder/calls"
for one in "$@"; do printf '\\t%s' "$one" >>"$folder/calls"; done
printf '\\n' >>"$folder/calls"
[ -f "$folder/$name.out" ] && cat "$folder/$name.out"
[ -f "$folder/$name.err" ] && cat "$folder/$name.err" >&2
[ -f "$folder/$name.code" ] && exit "$(cat "$folder/$name.code")"
exit 0
"""


class Manager:
    """The fake programs of a service manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("systemctl", "systemd-run", "loginctl", "journalctl", "launchctl", "tail"):
            path = folder / name
            path.write_text(_FAKE)
            path.chmod(0o755)

    def says(self, name: str, *, out: str = "", err: str = "", code: int = 0) -> None:
        (self.folder / f"{name}.out").write_text(out)
        (self.folder / f"{name}.err").write_text(err)
        (self.folder / f"{name}.code").write_text(str(code))

    @property
    def calls(self) -> list[str]:
        """The commands since the last look, without questions about the state."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [" ".join(line.split("\t")) for line in lines if "\tshow" not in line and "\tprint\t" not in line]
