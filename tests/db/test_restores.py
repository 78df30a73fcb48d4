"""Restore, undo and redo on real folders, through both clients. No byte is ever lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from restoring import EDITED, GOOD, Contents, checkpointed, new_project, newest_checkpoint, on_disk, write

from atlas_sdk import Atlas, AtlasError, FileProblem, NotFound, OutsideProject, Project, RestoreRefused
from atlas_sdk.ops import restores


def state(client: Any, project: Project, reference: str = "latest") -> Contents:
    return {path: client.memory.content(found) for path, found in versions(client, project, reference).items()}


def versions(client: Any, project: Project, reference: str) -> dict[str, Any]:
    return client.memory.resolve(project, reference).by_path()


def test_every_kind_of_reference_brings_its_files_back(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    claude, notes = client.memory.files(project)
    whole = ["good", f"@{{{notes.created_at.isoformat()}}}"]
    single = [claude.id.hex, str(claude.id), "CLAUDE.md@good", f"CLAUDE.md@{claude.id}", f"CLAUDE.md{whole[1]}"]
    for reference in whole + single:
        write(folder, EDITED)
        done = client.memory.restore(project, reference)
        wanted = GOOD if reference in whole else EDITED | {"CLAUDE.md": GOOD["CLAUDE.md"]}
        assert on_disk(folder) == wanted, reference
        assert client.memory.read(project, "CLAUDE.md") == GOOD["CLAUDE.md"]
        assert done.target == reference
        assert [change.path for change in done.changes] == [path for path in wanted if wanted[path] != EDITED[path]]


def test_a_plan_shows_and_changes_nothing(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    plan = client.memory.plan_restore(project, "good")
    claude, notes = plan.changes
    assert (claude.action, claude.added_lines, claude.removed_lines) == ("write", 1, 2)
    assert (notes.action, notes.present_size, notes.size) == ("write", len(EDITED["notes.md"]), len(GOOD["notes.md"]))
    assert on_disk(folder) == EDITED
    assert state(client, project) == GOOD
    assert [made.name for made in client.memory.checkpoints(project)] == ["good"]
    assert client.memory.restore(project, plan) is not None
    assert on_disk(folder) == GOOD


def test_nothing_to_restore_is_none_and_leaves_no_trace(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    before = client.memory.history(project)
    assert client.memory.restore(project, "good") is None
    assert client.memory.history(project) == before
    with pytest.raises(NotFound, match="no restore to undo"):
        client.memory.undo(project)
    with pytest.raises(NotFound, match="no undone restore"):
        client.memory.redo(project)


def test_newer_files_are_kept_unless_deletion_is_asked_for(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, {"todo.md": b"newer", "main.py": b"not memory", "data/NOTES.md": b"never seen"})
    client.memory.snapshot(project, "todo.md")
    write(folder, {"todo.md": b"newer still, not on record"})
    actions = {step.path: step.action for step in client.memory.plan_restore(project, "good").steps}
    assert actions == {"CLAUDE.md": "same", "notes.md": "same", "todo.md": "kept"}
    assert client.memory.restore(project, "good") is None
    client.memory.restore(project, "good", delete=True)
    assert on_disk(folder) == GOOD | {"main.py": b"not memory", "data/NOTES.md": b"never seen"}
    assert client.memory.read(project, "todo.md", newest_checkpoint(client, project)) == b"newer still, not on record"
    client.memory.undo(project)
    assert (folder / "todo.md").read_bytes() == b"newer still, not on record"


def test_only_the_paths_asked_for_are_restored(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    with pytest.raises(NotFound, match=r"^never\.md did not exist at 'good'$"):
        client.memory.restore(project, "good", paths=["notes.md", "never.md"])
    with pytest.raises(OutsideProject):
        client.memory.restore(project, "good", paths=["../notes.md"])
    assert on_disk(folder) == EDITED
    client.memory.restore(project, "good", paths=[folder / "notes.md"])
    assert on_disk(folder) == EDITED | {"notes.md": GOOD["notes.md"]}


def test_the_safety_checkpoint_holds_exactly_what_stood_there(client: Any, folder: Path) -> None:
    """The checkpoint also has uncaptured changes, and the removal of a file that no client captured."""
    project = checkpointed(client, folder)
    write(folder, EDITED)
    (folder / "notes.md").unlink()
    done = client.memory.restore(project, "good")
    assert on_disk(folder) == GOOD
    assert state(client, project, done.safety) == {"CLAUDE.md": EDITED["CLAUDE.md"]}
    assert client.memory.checkpoints(project)[0].kind == "safety"
    assert client.memory.verify(client.users.by_email("ada@example.com")).ok


@pytest.mark.parametrize("surprise", ["edited", "removed", "created"])
def test_a_change_after_the_plan_refuses_everything(client: Any, folder: Path, surprise: str) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    if surprise == "created":
        (folder / "notes.md").unlink()
    plan = client.memory.plan_restore(project, "good")
    if surprise == "removed":
        (folder / "notes.md").unlink()
    else:
        write(folder, {"notes.md": b"written after the plan"})
    found = on_disk(folder)
    with pytest.raises(RestoreRefused, match="nothing was written") as caught:
        client.memory.restore(project, plan)
    assert caught.value.paths == ("notes.md",)
    assert on_disk(folder) == found
    assert [made.name for made in client.memory.checkpoints(project)] == ["good"]


def test_a_file_too_large_to_keep_is_not_overwritten(client: Any, folder: Path) -> None:
    write(folder, {".atlas.toml": b"[track]\nlimit_bytes = 100\n"})
    project = checkpointed(client, folder)
    write(folder, EDITED | {"notes.md": b"x" * 101})
    found = on_disk(folder)
    with pytest.raises(RestoreRefused, match="over the size limit of 100"):
        client.memory.restore(project, "good")
    assert on_disk(folder) == found
    assert client.memory.restore(project, "good", paths=["CLAUDE.md"]) is not None


def test_permissions_come_back(client: Any, folder: Path) -> None:
    (folder / "notes.md").chmod(0o600)
    project = checkpointed(client, folder)
    (folder / "notes.md").chmod(0o664)
    done = client.memory.restore(project, "good")
    assert (folder / "notes.md").stat().st_mode & 0o777 == 0o600
    assert versions(client, project, done.safety)["notes.md"].mode == 0o664
    client.memory.undo(project)
    assert (folder / "notes.md").stat().st_mode & 0o777 == 0o664


def test_a_restore_that_dies_between_files_is_taken_back_whole(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"todo.md": b"- [ ] all\n"})
    project = checkpointed(client, folder)
    before = EDITED | {"todo.md": b"not on record yet"}
    write(folder, before)
    with monkeypatch.context() as patched:
        patched.setattr(restores, "replace_file", failing_from_second_on(restores.replace_file))
        with pytest.raises(RestoreRefused, match="disk full"):
            client.memory.restore(project, "good")
    assert on_disk(folder) == before | {"CLAUDE.md": GOOD["CLAUDE.md"]}
    client.memory.undo(project)
    assert on_disk(folder) == before
    client.memory.redo(project)
    assert on_disk(folder) == GOOD | {"todo.md": b"- [ ] all\n"}


def failing_from_second_on(replace: Any) -> Any:
    calls: list[str] = []

    def replace_file(root: Path, path: str, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise FileProblem("disk full", path=path)
        replace(root, path, *args, **kwargs)

    return replace_file


def test_a_file_where_a_folder_must_be_is_an_error_that_loses_nothing(client: Any, folder: Path) -> None:
    write(folder, {"notes/plan.md": b"the plan"})
    project = checkpointed(client, folder)
    (folder / "notes/plan.md").unlink()
    (folder / "notes").rmdir()
    write(folder, {"CLAUDE.md": EDITED["CLAUDE.md"]})
    plan = client.memory.plan_restore(project, "good")
    write(folder, {"notes": b"a file now"})
    before = on_disk(folder)
    with pytest.raises(RestoreRefused, match=r"^cannot write notes/plan\.md: not a directory; move the file"):
        client.memory.restore(project, plan)
    assert on_disk(folder)["notes"] == b"a file now"
    client.memory.undo(project)
    assert on_disk(folder) == before


def test_a_watcher_in_the_middle_of_a_restore_loses_nothing(
    client: Any, dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client captures before and after every file that is written."""
    project = checkpointed(client, folder)
    replace = restores.replace_file
    with Atlas.open(dsn) as watcher:

        def replace_file(*args: Any, **kwargs: Any) -> None:
            watcher.memory.capture(project)
            replace(*args, **kwargs)
            watcher.memory.capture(project)

        monkeypatch.setattr(restores, "replace_file", replace_file)
        watcher.memory.capture(project)
        write(folder, EDITED)
        done = client.memory.restore(project, "good")
        assert on_disk(folder) == state(watcher, project) == GOOD
        assert state(client, project, done.safety) == EDITED
        client.memory.undo(project)
        assert on_disk(folder) == state(watcher, project) == EDITED


def test_edits_after_a_restore_to_long_before_read_back(client: Any, folder: Path) -> None:
    """The restored content is stored as a delta, and later edits are deltas of it."""
    project = new_project(client, folder)
    rules = b"".join(b"line %d of the rules\n" % n for n in range(60))
    for n in range(6):
        client.memory.snapshot(project, "CLAUDE.md", rules + b"%d\n" % n)
    client.memory.checkpoint(project, "rules")
    write(folder, {"CLAUDE.md": os.urandom(3000)})
    client.memory.restore(project, "rules")
    write(folder, {"CLAUDE.md": rules + b"edited\n"})
    assert len(client.memory.capture(project).taken) == 2
    assert client.memory.read(project, "CLAUDE.md") == rules + b"edited\n"


def test_a_file_written_again_after_a_restore_removed_it_is_captured(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    client.memory.checkpoint(project, "nothing")
    client.memory.capture(project)
    client.memory.restore(project, "nothing", delete=True)
    write(folder, GOOD)
    client.memory.capture(project)
    assert state(client, project) == GOOD


def test_a_file_whose_name_is_not_utf8_is_restored(client: Any, folder: Path) -> None:
    name = "notes/caf\udce9.md"
    write(folder, {name: b"one"})
    project = checkpointed(client, folder)
    write(folder, {name: b"two"})
    client.memory.restore(project, "good")
    assert (folder / name).read_bytes() == b"one"


def test_a_plan_of_another_project_is_refused(client: Any, folder: Path, tmp_path: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    plan = client.memory.plan_restore(project, "good")
    with pytest.raises(AtlasError):
        client.memory.restore(new_project(client, tmp_path / "other"), plan)
