"""The whole memory, on a real database and a real folder, compared with a model of dictionaries.

The sequences are the same in every run, and a failing one is printed as it is. To look for new sequences, for longer,
and to shorten those that fail, run `ATLAS_MACHINE_EXAMPLES=2000 pytest tests/stateful/test_memory_machine.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory_model import Files, Model, Restored

from atlas_sdk import Atlas, NotFound, Snapshot

EXAMPLES = int(os.environ.get("ATLAS_MACHINE_EXAMPLES", "0"))
PATHS = ("CLAUDE.md", "notes.md", ".claude/rules/style.md")
PRUNE = "DELETE FROM memory_snapshots WHERE kind = 'auto' AND created_at < NOW() - INTERVAL '30 days'"


def _rules(n: int) -> bytes:
    """Return one of many contents that are nearly the same, so that they become deltas of each other."""
    return b"".join(b"line %d of the rules\n" % line for line in range(40)) + b"edition %d\n" % n


def _noise(n: int) -> bytes:
    """Return one of a few contents for which no delta is small, so that chains end and new ones begin."""
    return b"".join(hashlib.sha512(b"%d %d" % (n, part)).digest() for part in range(30))


paths = st.sampled_from(PATHS)
contents = st.one_of(
    st.builds(_rules, st.integers(0, 99)),
    st.builds(_rules, st.integers(0, 99)),
    st.builds(_noise, st.integers(0, 2)),
    st.sampled_from([b"", b"a", b"\0\xff"]),
)
kinds = st.sampled_from(["auto", "claude_md"])
picks = st.integers(0, 2**16)


class MemoryMachine(RuleBasedStateMachine):
    """The actions of people, agents, cron and crashes, each followed by a comparison with the model."""

    home: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="atlas-machine-"))
        self.atlas = Atlas.open(home=self.home)
        self.model = Model()

    @initialize()
    def register(self) -> None:
        self.user = self.atlas.users.create(f"{uuid4().hex}@example.com")
        self.project = self.atlas.projects.create(self.user, path=self.folder)
        # Begin with a chain of deltas.
        for n in range(100, 104):
            self.snapshot_bytes(PATHS[0], _rules(n), "auto")

    def teardown(self) -> None:
        self.atlas.close()
        shutil.rmtree(self.folder)

    def learn(self, version: Snapshot | None, path: str, content: bytes | None) -> None:
        """Compare an answer with the model, and remember the version."""
        if path in self.model.newest and self.model.newest[path] == content:
            assert version is None, f"{path}: a version although nothing changed"
            return
        assert version is not None, f"{path}: a change is not on record"
        assert (version.path, version.deleted) == (path, content is None)
        self.model.versions[version.id] = (version, content)
        self.model.newest[path] = content

    def learn_from_history(self, path: str, *changes: bytes | None) -> None:
        """Remember the versions that an operation made but did not return, in this order."""
        expected = []
        newest = self.model.newest.get(path)
        for content in changes:
            if path not in self.model.newest and content is None:
                continue
            if path not in self.model.newest or content != newest:
                expected.append(content)
                self.model.newest[path] = newest = content
        history = [v for v in self.atlas.memory.history(self.project, path, limit=20) if v.kind != "checkpoint"]
        for version, content in zip(history, expected[::-1], strict=False):
            assert version.id not in self.model.versions, f"{path}: a change is not on record"
            assert version.deleted == (content is None)
            self.model.versions[version.id] = (version, content)

    # Changes on disk that no client sees.

    @rule(path=paths, content=contents)
    def write_on_disk(self, path: str, content: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)
        self.model.disk[path] = content

    @precondition(lambda self: self.model.disk)
    @rule(pick=picks)
    def delete_on_disk(self, pick: int) -> None:
        path = sorted(self.model.disk)[pick % len(self.model.disk)]
        (self.folder / path).unlink()
        del self.model.disk[path]

    # Changes that are recorded.

    @rule(path=paths, content=contents, kind=kinds)
    def snapshot_given(self, path: str, content: bytes, kind: str) -> None:
        self.snapshot_bytes(path, content, kind)

    def snapshot_bytes(self, path: str, content: bytes, kind: str) -> None:
        made = self.atlas.memory.snapshot(self.project, path, content, kind=kind, mode=0o644)
        self.learn(made, path, content)

    @precondition(lambda self: self.model.versions)
    @rule(path=paths, pick=picks, edit=contents)
    def copy_and_edit(self, path: str, pick: int, edit: bytes) -> None:
        """Store an old content again, maybe in another file, and edit it: a chain gets a second branch."""
        _, content = self.model.versions[sorted(self.model.versions)[pick % len(self.model.versions)]]
        if content is not None:
            self.snapshot_bytes(path, content, "auto")
            self.snapshot_bytes(path, edit, "auto")

    @rule(path=paths)
    def snapshot_file(self, path: str) -> None:
        content = self.model.disk.get(path)
        if content is None and path not in self.model.newest:
            with pytest.raises(NotFound):
                self.atlas.memory.snapshot(self.project, path)
            return
        self.learn(self.atlas.memory.snapshot(self.project, path, kind="auto"), path, content)

    @rule(path=paths)
    def record_deletion(self, path: str) -> None:
        if path in self.model.newest:
            self.learn(self.atlas.memory.delete(self.project, path), path, None)

    @rule(kind=kinds)
    def capture(self, kind: str) -> None:
        taken = {version.path: version for version in self.atlas.memory.capture(self.project, kind=kind).taken}
        for path in PATHS:
            if path in self.model.disk or path in self.model.newest:
                self.learn(taken.pop(path, None), path, self.model.disk.get(path))
        assert taken == {}

    @rule()
    def checkpoint(self) -> None:
        name = f"c{len(self.model.checkpoints)}"
        assert self.atlas.memory.checkpoint(self.project, name).files == len(self.model.living())
        self.model.checkpoints[name] = self.model.living()

    # Restore, undo and redo.

    def carry_out(self, wanted: dict[str, bytes | None]) -> Restored:
        """Record in the model that these files are restored. A file with the wanted content is no change."""
        changed = {path: content for path, content in wanted.items() if self.model.disk.get(path) != content}
        done = Restored(before={path: self.model.disk.get(path) for path in changed}, after=changed)
        for path, content in changed.items():
            self.learn_from_history(path, self.model.disk.get(path), content)
            if content is None:
                del self.model.disk[path]
            else:
                self.model.disk[path] = content
        return done

    def check_safety(self, before: Files, changed: Restored) -> None:
        """Check that the newest checkpoint is the safety one, and has every changed file as it was on disk."""
        name = self.atlas.memory.checkpoints(self.project)[0].name
        assert name.startswith("before-")
        kept = self.read(name)
        for path in changed.before:
            assert kept.get(path) == before.get(path), path
        self.model.checkpoints[name] = kept

    @precondition(lambda self: self.model.checkpoints)
    @rule(pick=picks, delete=st.booleans(), only=st.one_of(st.none(), paths))
    def restore_checkpoint(self, pick: int, delete: bool, only: str | None) -> None:  # noqa: FBT001  # drawn values
        name = sorted(self.model.checkpoints)[pick % len(self.model.checkpoints)]
        wanted: dict[str, bytes | None] = dict(self.model.checkpoints[name])
        if delete:
            wanted |= {path: None for path in self.model.newest if path not in wanted}
        if only is not None:
            if only not in self.model.newest:
                with pytest.raises(NotFound):
                    self.atlas.memory.restore(self.project, name, paths=[only], delete=delete)
                return
            wanted = {path: content for path, content in wanted.items() if path == only}
        self.restore(name, wanted, [] if only is None else [only], delete=delete)

    @precondition(lambda self: self.model.versions)
    @rule(pick=picks)
    def restore_version(self, pick: int) -> None:
        version, content = self.model.versions[sorted(self.model.versions)[pick % len(self.model.versions)]]
        self.restore(str(version.id), {version.path: content}, [], delete=False)

    def restore(self, reference: str, wanted: dict[str, bytes | None], only: list[str], *, delete: bool) -> None:
        before = dict(self.model.disk)
        answer = self.atlas.memory.restore(self.project, reference, paths=only, delete=delete)
        done = self.carry_out(wanted)
        assert (answer is None) == (not done.after)
        if answer is not None:
            assert [change.path for change in answer.changes] == sorted(done.after)
            self.check_safety(before, done)
            # After a new restore, the undone restores can no longer be redone.
            self.model.restores = [past for past in self.model.restores if not past.undone] + [done]

    @rule()
    def undo(self) -> None:
        past = next((past for past in reversed(self.model.restores) if not past.undone), None)
        if past is None:
            with pytest.raises(NotFound):
                self.atlas.memory.undo(self.project)
            return
        before = dict(self.model.disk)
        assert self.atlas.memory.undo(self.project).undone_at is not None
        past.undone = True
        self.walked(before, self.carry_out(past.before))

    @rule()
    def redo(self) -> None:
        past = next((past for past in self.model.restores if past.undone), None)
        if past is None:
            with pytest.raises(NotFound):
                self.atlas.memory.redo(self.project)
            return
        before = dict(self.model.disk)
        assert self.atlas.memory.redo(self.project).undone_at is None
        past.undone = False
        self.walked(before, self.carry_out(past.after))

    def walked(self, before: Files, done: Restored) -> None:
        if done.after:
            self.check_safety(before, done)

    # Time passes, and processes start and end.

    @rule(pick=picks)
    def prune(self, pick: int) -> None:
        """Make a few versions older than the limit, then run the clean-up statement of the documentation."""
        self.model.aged |= {id_ for n, id_ in enumerate(sorted(self.model.versions)) if (pick >> (n % 16)) & 1}
        with psycopg.connect(self.atlas.url) as connection:
            connection.execute(
                "UPDATE memory_snapshots SET created_at = NOW() - INTERVAL '31 days' WHERE id = ANY(%s)",
                [list(self.model.aged)],
            )
            connection.execute(PRUNE)
        left = {version.id for version in self.atlas.memory.history(self.project, limit=10_000)}
        for id_ in set(self.model.versions) - left:
            version, content = self.model.versions.pop(id_)
            assert version.kind == "auto"
            assert id_ in self.model.aged
            later = [v for v, _ in self.model.versions.values() if v.path == version.path and v.seq > version.seq]
            assert later, "the newest version was pruned"
            assert content is None or any(not v.deleted for v in later), "the last content was pruned"

    @rule()
    def come_back_as_a_new_client(self) -> None:
        self.atlas.close()
        self.atlas = Atlas.open(home=self.home)

    # Checks after every step.

    def read(self, reference: str) -> Files:
        found = self.atlas.memory.resolve(self.project, reference)
        return {version.path: self.atlas.memory.content(version) for version in found.versions}

    @invariant()
    def the_disk_is_as_in_the_model(self) -> None:
        found = {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        assert found == self.model.disk

    @invariant()
    def the_newest_versions_are_as_in_the_model(self) -> None:
        if hasattr(self, "project"):
            files = self.atlas.memory.files(self.project)
            found = {v.path: None if v.deleted else self.atlas.memory.content(v) for v in files}
            assert found == self.model.newest

    @rule()
    def look_at_everything(self) -> None:
        """Read every checkpoint and every version. This is too slow to do it after every step."""
        for name, kept in self.model.checkpoints.items():
            assert self.read(name) == kept, name
        for version, content in self.model.versions.values():
            assert self.atlas.memory.content(version) == (content or b"")
            assert version.deleted or hashlib.sha256(content or b"").hexdigest() == version.sha256
        assert self.atlas.memory.verify(self.user).ok
        numbers: dict[str, list[int]] = {}
        for version, _ in self.model.versions.values():
            numbers.setdefault(version.path, []).append(version.seq)
        assert all(len(set(seqs)) == len(seqs) for seqs in numbers.values())


def test_memory_behaves_as_its_model(atlas_home: Path) -> None:
    class Machine(MemoryMachine):
        home = atlas_home

        def teardown(self) -> None:
            try:
                if hasattr(self, "project"):
                    self.look_at_everything()
            finally:
                super().teardown()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES or 25,
            stateful_step_count=25,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            report_multiple_bugs=False,
            # Shortening a sequence can take five minutes.
            phases=tuple(Phase) if EXAMPLES else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
