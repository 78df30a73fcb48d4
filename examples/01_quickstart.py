"""Keep every version of a memory file, name one, lose the file, get it back.

Run it: python examples/01_quickstart.py
"""

import tempfile
from pathlib import Path

from atlas_sdk import Atlas


def main() -> None:
    # The database is removed at the end. In your own program, use Atlas.open().
    with tempfile.TemporaryDirectory() as folder, Atlas.temporary() as atlas:
        user = atlas.users.local()
        project = atlas.projects.create(user, path=folder)
        memory = Path(folder, "CLAUDE.md")

        memory.write_text("# Rules\n\n- Tests first.\n")
        first = atlas.memory.snapshot(project, "CLAUDE.md")
        assert first is not None
        print(f"kept {first.path} as version {first.seq}: {first.size} bytes")
        print("nothing changed:", atlas.memory.snapshot(project, "CLAUDE.md"))

        checkpoint = atlas.memory.checkpoint(project, "before-refactor")
        print(f"checkpoint {checkpoint.name}: {checkpoint.files} file")

        memory.write_text("[rest of the file remains unchanged]\n")
        atlas.memory.snapshot(project, "CLAUDE.md")
        (difference,) = atlas.memory.diff(project, "before-refactor")
        print(f"{difference.path}: +{difference.added_lines} -{difference.removed_lines} lines since the checkpoint")

        atlas.memory.restore(project, "before-refactor")
        print("restored:", memory.read_text().splitlines()[0])
        atlas.memory.undo(project)
        print("undone:  ", memory.read_text().splitlines()[0])
        atlas.memory.redo(project)

        found = atlas.memory.verify(user)
        print(f"verified {found.contents} contents, {len(found.broken)} broken")


if __name__ == "__main__":
    main()
