"""Maintenance at any moment, compared with a model: it removes what it may, and every remaining version reads back.

The sequences are the same in every run. To look for new ones: `ATLAS_MACHINE_EXAMPLES=2000 pytest` this file.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from attrs import define
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from atlas_sdk import Atlas, Project, Snapshot, User

EXAMPLES = int(os.environ.get("ATLAS_MACHINE_EXAMPLES", "0"))
PATHS = ("CLAUDE.md", "notes.md")


def _rules(n: int) -> bytes:
    """Return one of many contents that are nearly the same, so that they become deltas of each other."""
    return b"".join(b"line %d of the rules\n" % line for line in range(40)) + b"edition %d\n" % n


def _noise(n: int) -> bytes:
    """Return one of a few contents for which no delta is small, so that chains end and become unused as a whole."""
    return b"".join(hashlib.sha512(b"%d %d" % (n, part)).digest() for part in range(12))


contents = st.one_of(
    st.builds(_rules, st.integers(0, 5)), st.builds(_rules, st.integers(0, 99)), st.builds(_noise, st.integers(0, 2))
)
who = st.integers(0, 1)


@define
class Kept:
    """A version as the model knows it."""

    owner: int
    path: str
    content: bytes | None
    auto: bool
    #: The days by which its time was set back.
    age: int = 0


class MaintenanceMachine(RuleBasedStateMachine):
    """Two users with the same contents, whose versions are made, grow old and are removed."""

    dsn: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.atlas = Atlas.open(self.dsn)
        self.admin: psycopg.Connection[Any] = psycopg.connect(self.dsn, autocommit=True)
        self.users: list[User] = []
        self.projects: list[Project] = []
        #: The versions, in the order in which they were made.
        self.versions: dict[UUID, Kept] = {}
        self.named: dict[tuple[int, str], dict[str, bytes]] = {}

    @initialize()
    def begin(self) -> None:
        for _ in range(2):
            self.users.append(self.atlas.users.create(f"{uuid4().hex}@example.com"))
            self.projects.append(self.atlas.projects.create(self.users[-1], path=f"/srv/{uuid4().hex}"))
        for owner in range(2):
            for n in range(100, 105):
                self.put(owner, PATHS[0], _rules(n), auto=True)

    def teardown(self) -> None:
        for user in self.users:
            self.atlas.users.delete(user)
        self.admin.close()
        self.atlas.close()

    @rule(owner=who, path=st.sampled_from(PATHS), content=contents, auto=st.booleans())
    def put(self, owner: int, path: str, content: bytes, *, auto: bool) -> None:
        made = self.atlas.memory.snapshot(self.projects[owner], path, content, kind="auto" if auto else "claude_md")
        self._note(owner, made, content, auto=auto)

    @rule(owner=who)
    def delete(self, owner: int) -> None:
        if PATHS[0] in self._newest(owner):
            self._note(owner, self.atlas.memory.delete(self.projects[owner], PATHS[0]), None, auto=True)

    @rule(owner=who)
    def name(self, owner: int) -> None:
        name = uuid4().hex
        self.atlas.memory.checkpoint(self.projects[owner], name)
        newest = {path: self.versions[version].content for path, (version, _) in self._newest(owner).items()}
        self.named[owner, name] = {path: content for path, content in newest.items() if content is not None}

    @rule(owner=who, days=st.sampled_from([10, 31]))
    def grow_old(self, owner: int, days: int) -> None:
        self.admin.execute(
            "UPDATE memory_snapshots SET created_at = created_at - make_interval(days => %s) WHERE user_id = %s",
            [days, self.users[owner].id],
        )
        for version in self.versions.values():
            version.age += days if version.owner == owner else 0

    @rule(batch=st.sampled_from([1, 3, 5000]))
    def prune(self, batch: int) -> None:
        expected = self._prunable()
        assert self.atlas.maintenance.prune_snapshots(dry_run=True, batch=batch).removed == len(expected)
        assert self.atlas.maintenance.prune_snapshots(batch=batch).removed == len(expected)
        for version in expected:
            del self.versions[version]

    @rule(batch=st.sampled_from([1, 3, 5000]))
    def collect(self, batch: int) -> None:
        before = self._blobs()
        report = self.atlas.maintenance.collect_contents(batch=batch)
        assert (report.examined, report.removed, report.skipped) == (before, before - self._blobs(), 0)
        unneeded = self.admin.execute(
            "SELECT count(*) FROM memory_blobs WHERE NOT memory_blob_is_needed(user_id, sha256)"
        ).fetchone()
        assert unneeded == (0,)

    @rule()
    def run(self) -> None:
        expected = self._prunable()
        reports = {report.name: report for report in self.atlas.maintenance.run()}
        assert reports["snapshots"].removed == len(expected)
        for version in expected:
            del self.versions[version]

    @invariant()
    def every_version_reads_back(self) -> None:
        for owner, project in enumerate(self.projects):
            found = {v.id: v for v in self.atlas.memory.history(project, limit=1000) if v.kind != "checkpoint"}
            assert set(found) == {version for version, kept in self.versions.items() if kept.owner == owner}
            for version, snapshot in found.items():
                content = self.versions[version].content
                assert snapshot.deleted == (content is None)
                if content is not None:
                    assert snapshot.sha256 == hashlib.sha256(content).hexdigest()
                    assert self.atlas.memory.content(snapshot) == content
            assert self.atlas.memory.verify(self.users[owner]).ok
        for (owner, name), files in self.named.items():
            state = self.atlas.memory.resolve(self.projects[owner], name)
            assert {v.path: self.atlas.memory.content(v) for v in state.versions} == files

    def _note(self, owner: int, made: Snapshot | None, content: bytes | None, *, auto: bool) -> None:
        if made is not None:
            self.versions[made.id] = Kept(owner, made.path, content, auto)

    def _newest(self, owner: int) -> dict[str, tuple[UUID, UUID]]:
        """Return the newest version of each file, and the newest version with content."""
        found: dict[str, tuple[UUID, UUID]] = {}
        for version, kept in self.versions.items():
            if kept.owner == owner:
                last = found.get(kept.path)
                found[kept.path] = (version, last[1] if kept.content is None and last is not None else version)
        return found

    def _prunable(self) -> set[UUID]:
        kept = {version for owner in range(2) for pair in self._newest(owner).values() for version in pair}
        return {version for version, it in self.versions.items() if it.auto and it.age >= 30 and version not in kept}

    def _blobs(self) -> int:
        row = self.admin.execute("SELECT count(*) FROM memory_blobs").fetchone()
        assert row is not None
        return row[0]


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_maintenance_at_any_moment_loses_nothing(dsn: str) -> None:
    class Machine(MaintenanceMachine):
        pass

    Machine.dsn = dsn
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES or 12,
            stateful_step_count=25,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
