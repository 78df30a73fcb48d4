"""The files of a simulated project, and the programs that write them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from simulated import Kernel, World

from atlas_sdk import AtlasError
from atlas_sdk.files import FileState, Root, read_file
from watcher.debounce import ChangeKind

FILES = (
    "CLAUDE.md",
    "AGENTS.md",
    ".claude/rules/a.md",
    ".claude/rules/b.md",
    "docs/more.md",
    "docs/g1.md",
    "docs/g2.md",
)
LINK, RULES, SHARED = "GEMINI.md", ".claude/rules", "shared"
PATHS = (*FILES, LINK)
#: The content (None: no file, or none that can be read), the mode and the text of the link.
State = tuple[bytes | None, int, str | None]
NOTHING: State = (None, 0, None)
_LIMIT = 1_000_000


class Disk:
    """The project's files, the programs that write them, and every state that each file had."""

    def __init__(self, root: Path, world: World) -> None:
        self.root, self.world = root, world
        self.kernel: Kernel | None = None
        self.seen: dict[str, list[State]] = {path: [NOTHING] for path in PATHS}
        self.number = 0
        self.changes: list[Callable[[], str]] = [
            self.write,
            self.write,
            self.write,
            self.append,
            self.replace,
            self.replace,
            self.delete,
            self.flash,
            self.flash,
            self.recreate,
            self.chmod,
            self.link,
            self.remove_folder,
            self.move_folder,
            self.link_folder,
            self.more,
        ]

    def change(self) -> str:
        """Let a program change something; return what it did."""
        try:
            return self.world.random.choice(self.changes)()
        except OSError as error:
            return f"nothing: {error}"

    def read(self, path: str) -> FileState | None:
        try:
            return read_file(Root(self.root), path, limit_bytes=_LIMIT)
        except AtlasError:
            return None

    def look(self) -> None:
        """Note the state of every file."""
        for path, states in self.seen.items():
            found = self.read(path)
            state = NOTHING if found is None else (found.content, found.mode, found.link)
            if states[-1] != state:
                states.append(state)

    def _tell(self, path: Path, *changes: ChangeKind, is_folder: bool = False) -> None:
        if self.kernel is not None:
            for change in changes:
                self.kernel.changed(path, change, is_folder=is_folder)
        self.look()

    def _some(self) -> Path:
        return self.root / self.world.random.choice((*FILES, *FILES[:2] * 3))

    def _text(self) -> str:
        self.number += 1
        # Now and then the same text again: a file that goes back to an old state is the hardest case.
        number = self.world.random.choice((self.number, self.number, self.number % 3))
        return f"text {number}\n" + ("@docs/more.md\n" if self.world.random.random() < 0.2 else "")

    def _folder_of(self, path: Path) -> None:
        for folder in reversed(path.relative_to(self.root).parents):
            one = self.root / folder
            if not one.exists():
                one.mkdir()
                self._tell(one, ChangeKind.CHANGED, is_folder=True)

    def write(self) -> str:
        path = self._some()
        self._folder_of(path)
        with path.open("w") as file:
            self._tell(path, ChangeKind.CHANGED)
            file.write(self._text())
        self._tell(path, ChangeKind.CHANGED, ChangeKind.CLOSED)
        return f"write {path.name}"

    def append(self) -> str:
        path = self._some()
        self._folder_of(path)
        with path.open("a") as file:
            file.write(self._text())
        self._tell(path, ChangeKind.CHANGED, ChangeKind.CLOSED)
        return f"append {path.name}"

    def replace(self) -> str:
        path = self._some()
        self._folder_of(path)
        new = path.with_suffix(".new")
        new.write_text(self._text())
        self._tell(new, ChangeKind.CHANGED, ChangeKind.CLOSED)
        new.rename(path)
        self._tell(new, ChangeKind.VANISHED)
        self._tell(path, ChangeKind.CLOSED)
        return f"replace {path.name}"

    def delete(self) -> str:
        path = self._some()
        path.unlink()
        self._tell(path, ChangeKind.VANISHED)
        return f"delete {path.name}"

    def flash(self) -> str:
        path = self.root / self.world.random.choice(FILES[:2])
        path.write_text(self._text())
        self._tell(path, ChangeKind.CHANGED, ChangeKind.CLOSED)
        path.unlink()
        self._tell(path, ChangeKind.VANISHED)
        if self.kernel is not None:
            self.world.random.shuffle(self.kernel.waiting)
        return f"write and delete {path.name}"

    def recreate(self) -> str:
        path = self._some()
        text = path.read_text()
        path.unlink()
        self._tell(path, ChangeKind.VANISHED)
        path.write_text(text)
        self._tell(path, ChangeKind.CHANGED, ChangeKind.CLOSED)
        return f"recreate {path.name}"

    def chmod(self) -> str:
        path = self._some()
        path.chmod(self.world.random.choice((0o600, 0o644, 0o755)))
        self._tell(path, ChangeKind.CHANGED)
        return f"chmod {path.name}"

    def link(self) -> str:
        path, target = self.root / LINK, self.world.random.choice(("docs/g1.md", "docs/g2.md", "CLAUDE.md"))
        if path.is_symlink():
            path.unlink()
            self._tell(path, ChangeKind.VANISHED)
        path.symlink_to(target)
        self._tell(path, ChangeKind.CHANGED)
        return f"link {LINK} -> {target}"

    def _remove(self, folder: Path) -> None:
        if folder.is_symlink():
            folder.unlink()
            self._tell(folder, ChangeKind.VANISHED)
            return
        for path in sorted(folder.iterdir()):
            path.unlink()
            self._tell(path, ChangeKind.VANISHED)
        if self.kernel is not None:
            self.kernel.itself(folder, ends=True)
        folder.rmdir()
        self._tell(folder, ChangeKind.VANISHED, is_folder=True)

    def remove_folder(self) -> str:
        folder = self.root / self.world.random.choice((RULES, "docs"))
        self._remove(folder)
        return f"remove {folder.name}/"

    def move_folder(self) -> str:
        folder, other = self.root / RULES, self.root / "aside"
        if other.exists():
            shutil.rmtree(other)
        if not folder.is_symlink() and self.kernel is not None:
            self.kernel.itself(folder, ends=False)
        folder.rename(other)
        self._tell(folder, ChangeKind.VANISHED, is_folder=not other.is_symlink())
        if self.world.random.random() < 0.5 and not other.is_symlink():
            other.rename(folder)
            self._tell(folder, ChangeKind.CLOSED, is_folder=True)
            return f"move {RULES}/ away and back"
        if other.is_symlink():
            other.unlink()
        return f"move {RULES}/ away"

    def link_folder(self) -> str:
        folder = self.root / RULES
        self._folder_of(folder)
        if folder.exists() or folder.is_symlink():
            self._remove(folder)
        (self.root / SHARED).mkdir(exist_ok=True)
        (self.root / SHARED / "a.md").write_text(self._text())
        folder.symlink_to(f"../{SHARED}")
        self._tell(folder, ChangeKind.CHANGED)
        return f"link {RULES} -> {SHARED}"

    def more(self) -> str:
        path = self.root / "CLAUDE.md"
        path.write_text(f"@docs/more.md {self._text()}")
        self._tell(path, ChangeKind.CHANGED, ChangeKind.CLOSED)
        return "import docs/more.md"
