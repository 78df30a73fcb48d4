"""Ways in which editors and agents save files, seen by a real daemon."""

import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import Daemon, contents, newest, until, until_newest

from atlas_sdk import Atlas, Project

#: The client, the project and its folder.
Watched = tuple[Atlas, Project, Path]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, shared_dsn: str) -> Iterator[tuple[Atlas, Daemon]]:
    folder = tmp_path_factory.mktemp("saves")
    daemon = Daemon(folder / "home", shared_dsn)
    try:
        with Atlas.open(shared_dsn) as atlas:
            atlas.users.create("ada@example.com")
            yield atlas, daemon.start()
            assert daemon.stop() == 0
    finally:
        daemon.end()


@pytest.fixture
def watched(running: tuple[Atlas, Daemon], tmp_path: Path) -> Watched:
    """Return a project whose CLAUDE.md contains "one", registered while the daemon runs."""
    atlas, _ = running
    root = tmp_path / "app"
    root.mkdir()
    (root / "CLAUDE.md").write_bytes(b"one")
    user = atlas.users.by_email("ada@example.com")
    assert user is not None
    project = atlas.projects.create(user, path=root)
    until(lambda: newest(atlas, project) == b"one", "a project registered while it runs is captured")
    return atlas, project, root


def replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.tmp.123.456")
    fresh.write_bytes(content)
    fresh.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" two")


def overwrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(b"two")
        file.flush()
        os.fsync(file.fileno())


def back_up_and_write(path: Path) -> None:
    path.rename(path.with_name("CLAUDE.md~"))
    path.write_bytes(b"two")
    path.with_name("CLAUDE.md~").unlink()


def delete_and_recreate(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"two")


def hard_link(path: Path) -> None:
    path.with_name("other.txt").write_bytes(b"two")
    path.unlink()
    path.hardlink_to(path.with_name("other.txt"))


def symlink(path: Path) -> None:
    path.with_name("other.txt").write_bytes(b"two")
    path.with_name("link").symlink_to("other.txt")
    path.with_name("link").replace(path)


def replace_from_another_folder(path: Path) -> None:
    fresh = path.parent.with_name("elsewhere")
    fresh.write_bytes(b"two")
    fresh.replace(path)


def map_into_memory(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 3) as mapped:
        mapped[:] = b"two"
        mapped.flush()


def write_slowly(path: Path) -> None:
    with path.open("wb") as file:
        for part in (b"t", b"w", b"o"):
            file.write(part)
            file.flush()
            time.sleep(0.02)


def edit_with_vim(path: Path, backup: str) -> None:
    # Vim makes no backup below the system's temporary folder, where this test runs, unless `backupskip` is empty.
    options = f"set writebackup backupskip= backupcopy={backup}"
    command = [
        "vim",
        "-N",
        "-u",
        "NONE",
        "-i",
        "NONE",
        "-es",
        "-c",
        options,
        "-c",
        "%s/one/two/",
        "-c",
        "wq",
        str(path),
    ]
    subprocess.run(command, check=True)


needs_vim = pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed: apt-get install vim")

SAVES: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "write": (lambda path: path.write_bytes(b"two"), b"two"),
    "append": (append, b"one two"),
    "truncate and write": (overwrite_in_place, b"two"),
    "atomic rename": (lambda path: replace(path, b"two"), b"two"),
    "sed -i": (lambda path: subprocess.run(["sed", "-i", "s/one/two/", str(path)], check=True), b"two"),
    "vim's backup": (back_up_and_write, b"two"),
    "delete and recreate": (delete_and_recreate, b"two"),
    "hard link": (hard_link, b"two"),
    "symlink": (symlink, b"two"),
    "temporary file of another folder": (replace_from_another_folder, b"two"),
    "truncate": (lambda path: os.truncate(path, 2), b"on"),
    "memory map": (map_into_memory, b"two"),
    "slow writer": (write_slowly, b"two"),
    "copy": (lambda path: shutil.copyfile(__file__, path), Path(__file__).read_bytes()),
    "vim": (lambda path: edit_with_vim(path, "auto"), b"two\n"),
    "vim with copies": (lambda path: edit_with_vim(path, "yes"), b"two\n"),
    "mode only": (lambda path: path.chmod(0o755), b"one"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[needs_vim] if name.startswith("vim ") or name == "vim" else []) for name in SAVES],
)
def test_every_way_to_save_makes_one_version(watched: Watched, name: str) -> None:
    atlas, project, root = watched
    save, expected = SAVES[name]
    save(root / "CLAUDE.md")
    until(lambda: len(contents(atlas, project)) == 2, "the save is captured")
    assert contents(atlas, project) == [b"one", expected]


def test_a_file_that_is_only_touched_makes_no_version(watched: Watched) -> None:
    atlas, project, root = watched
    os.utime(root / "CLAUDE.md", (1, 1))
    (root / "notes.md").write_bytes(b"later")
    until(lambda: newest(atlas, project, "notes.md") == b"later", "the later file is captured")
    assert contents(atlas, project) == [b"one"]


def test_a_file_that_is_renamed_out_of_the_folder_is_deleted(watched: Watched, tmp_path: Path) -> None:
    atlas, project, root = watched
    (root / "CLAUDE.md").rename(tmp_path / "away")
    until(lambda: newest(atlas, project) == "deleted", "the deletion is recorded")
    (tmp_path / "away").rename(root / "CLAUDE.md")
    until(lambda: newest(atlas, project) == b"one", "it is captured again")


def test_a_deletion_is_recorded_and_a_new_file_follows_it(watched: Watched) -> None:
    atlas, project, root = watched
    (root / "CLAUDE.md").unlink()
    until(lambda: newest(atlas, project) == "deleted", "the deletion is recorded")
    (root / "CLAUDE.md").write_bytes(b"again")
    until(lambda: newest(atlas, project) == b"again", "the new file is captured")
    assert contents(atlas, project) == [b"one", None, b"again"]


def test_a_file_in_a_new_nested_folder_is_captured(watched: Watched) -> None:
    atlas, project, root = watched
    (root / ".claude/rules/a/b").mkdir(parents=True)
    (root / ".claude/rules/a/b/c.md").write_bytes(b"deep")
    until(lambda: newest(atlas, project, ".claude/rules/a/b/c.md") == b"deep", "the nested file is captured")
    (root / ".claude/rules/a/b/c.md").write_bytes(b"deeper")
    until(lambda: newest(atlas, project, ".claude/rules/a/b/c.md") == b"deeper", "its folder is watched")


def test_a_folder_moved_in_brings_its_files(watched: Watched, tmp_path: Path) -> None:
    atlas, project, root = watched
    (tmp_path / "ready/a").mkdir(parents=True)
    (tmp_path / "ready/a/plan.md").write_bytes(b"moved in")
    (tmp_path / "ready").rename(root / "notes")
    until(lambda: newest(atlas, project, "notes/a/plan.md") == b"moved in", "its file is captured")
    shutil.rmtree(root / "notes")
    until(lambda: newest(atlas, project, "notes/a/plan.md") == "deleted", "and its end, too")


def test_a_write_to_the_target_of_a_symlink_is_seen(watched: Watched) -> None:
    atlas, project, root = watched
    (root / "docs").mkdir()
    (root / "docs/target.txt").write_bytes(b"target")
    (root / "NOTES.md").symlink_to("docs/target.txt")
    until(lambda: newest(atlas, project, "NOTES.md") == b"target", "the symlink is captured")
    (root / "docs/target.txt").write_bytes(b"changed")
    until(lambda: newest(atlas, project, "NOTES.md") == b"changed", "so is a write to its target")


def test_a_symlink_out_of_the_project_leaks_nothing_and_stops_nothing(
    watched: Watched, running: tuple[Atlas, Daemon], tmp_path: Path
) -> None:
    atlas, project, root = watched
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "CLAUDE.md").unlink()
    (root / "CLAUDE.md").symlink_to(tmp_path / "secret")
    (root / "notes.md").write_bytes(b"fine")
    until(lambda: newest(atlas, project, "notes.md") == b"fine", "the other file is captured")

    def problem() -> str | None:
        files = [file for one in running[1].status().projects if one.id == str(project.id) for file in one.files]
        return next((file.problem for file in files if file.path == "CLAUDE.md"), None)

    assert "outside the project" in until(problem, "the symlink is in the status")
    assert b"secret" not in contents(atlas, project)
    (root / "CLAUDE.md").unlink()
    (root / "CLAUDE.md").write_bytes(b"a file again")
    until(lambda: newest(atlas, project) == b"a file again", "it is captured again")
    until(lambda: problem() is None, "and the problem is gone")


def test_a_storm_ends_with_every_last_content_stored(watched: Watched) -> None:
    atlas, project, root = watched
    (root / "scratch").mkdir()
    for turn in range(50):
        for number in range(20):
            replace(root / f"scratch/{number}.md", f"{number}: {turn}".encode())
    for number in range(20):
        until_newest(atlas, project, f"{number}: 49".encode(), f"scratch/{number}.md")
