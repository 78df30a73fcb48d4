"""The journal's records reach the database once, in order, with their own times; direct writers come after them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve
from journaling import BEGAN, checkpoint_of, history, of, record
from uuid_utils.compat import uuid7

from atlas_sdk import AtlasError, NotPermitted, Project, QuotaExceeded
from atlas_sdk.journal import Journal, JournalProblem
from atlas_sdk.results import Delivery


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the home of all clients."""
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def journal(home: Path) -> Iterator[Journal]:
    with Journal.open(home) as opened:
        yield opened


@pytest.fixture
def project(client: Any, folder: Path) -> Project:
    user = client.users.create("ada@example.com", name="Ada")
    found: Project = client.projects.create(user, path=folder)
    return found


def test_records_become_versions_with_their_ids_times_and_authors(
    client: Any, project: Project, journal: Journal
) -> None:
    made = of(project, b"1", b"2", None, b"3")
    journal.append(made)
    assert client.memory.deliver() == Delivery(delivered=4)
    assert journal.is_empty()
    found = client.memory.history(project, "CLAUDE.md")[::-1]
    assert [one.id for one in found] == [one.id for one in made]
    assert [one.created_at for one in found] == [one.captured_at for one in made]
    assert {(one.kind, one.attribution.source, one.attribution.login) for one in found} == {("auto", "watcher", "ada")}
    assert history(client, project) == [b"1", b"2", None, b"3"]
    assert client.memory.deliver() == Delivery()


def test_a_second_delivery_of_the_same_records_stores_nothing(
    client: Any, project: Project, journal: Journal, home: Path, tmp_path: Path, dsn: str
) -> None:
    """A lost mark, or a copy of the home, delivers records again, also after newer versions."""
    made = [*of(project, b"1", b"2", b"2", b"1"), checkpoint_of(project, "v1"), *of(project, b"4")]
    journal.append(made)
    journal.close()
    shutil.copytree(home, tmp_path / "copy")
    assert client.memory.deliver().delivered == 6
    client.memory.snapshot(project, "CLAUDE.md", b"newer")
    with Journal.existing(tmp_path / "copy") as copy:  # type: ignore[union-attr]
        journal.append(copy.pending())
    assert client.memory.deliver() == Delivery(delivered=6)
    assert history(client, project) == [b"1", b"2", b"1", b"4", b"newer"]
    assert [one.name for one in client.memory.checkpoints(project)] == ["v1"]


def test_limit_is_the_most_records_of_one_call(client: Any, project: Project, journal: Journal) -> None:
    journal.append(of(project, b"1", b"2", b"3"))
    assert client.memory.deliver(limit=2) == Delivery(delivered=2, remaining=1)


def test_two_processes_may_deliver_the_same_records_in_any_interleaving(
    client: Any, project: Project, journal: Journal, dsn: str
) -> None:
    """One process has read the records and is slow; the other delivers them all, and writes more."""
    made = [*of(project, b"1", b"2"), checkpoint_of(project, "v1"), *of(project, b"3")]
    journal.append(made)
    slow = [made[:2], made[2:]]
    for part in slow:
        assert client.memory.deliver(limit=1).delivered in {0, 1}
        client.memory.deliver()
        client.memory.snapshot(project, "CLAUDE.md", b"direct")
        journal.append(part)
        client.memory.deliver()
    assert history(client, project) == [b"1", b"2", b"3", b"direct"]


# Direct writers


@pytest.mark.parametrize(
    "write",
    [
        lambda memory, project: memory.snapshot(project, "CLAUDE.md", b"direct"),
        lambda memory, project: memory.snapshot_many([(project, "CLAUDE.md", b"direct")]),
        lambda memory, project: memory.delete(project, "CLAUDE.md"),
        lambda memory, project: memory.capture(project),
        lambda memory, project: memory.checkpoint(project, "v1"),
        lambda memory, project: memory.restore(project, "latest"),
        lambda memory, project: memory.plan_restore(project, "latest"),
    ],
    ids=["snapshot", "snapshot_many", "delete", "capture", "checkpoint", "restore", "plan_restore"],
)
def test_every_direct_writer_delivers_first(
    client: Any, project: Project, journal: Journal, folder: Path, write: Any
) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"0")
    journal.append(of(project, b"1", b"2"))
    other = record(b"of another project", project_id=UUID(int=5))
    journal.append([other])
    write(client.memory, project)
    assert history(client, project)[:3] == [b"0", b"1", b"2"]
    assert journal.pending() == [other]


def test_undo_and_redo_deliver_first(client: Any, project: Project, journal: Journal, folder: Path) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"0")
    client.memory.restore(project, "latest")
    for step, walk in enumerate((client.memory.undo, client.memory.redo)):
        journal.append(of(project, b"j%d" % step))
        walk(project)
        assert journal.is_empty()
        assert b"j%d" % step in history(client, project)


def test_history_is_in_the_order_of_the_disk_when_direct_writers_and_the_journal_take_turns(
    client: Any, project: Project, journal: Journal
) -> None:
    wanted = []
    for number in range(12):
        content = b"%d" % number
        wanted.append(content)
        if number % 3:
            journal.append(of(project, content))
        else:
            client.memory.snapshot(project, "CLAUDE.md", content)
    client.memory.deliver()
    assert history(client, project) == wanted
    times = [one.created_at for one in client.memory.history(project, "CLAUDE.md")[::-1]]
    assert times == sorted(times)


def test_a_rolled_back_transaction_loses_no_record(client: Any, project: Project, journal: Journal) -> None:
    journal.append(of(project, b"1", b"2"))
    with pytest.raises(ZeroDivisionError), client.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", b"3")
        assert history(tx, project) == [b"1", b"2", b"3"]
        raise ZeroDivisionError
    assert len(journal.pending()) == 2
    assert client.memory.history(project, "CLAUDE.md") == []
    with client.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", b"3")
        tx.memory.snapshot(project, "CLAUDE.md", b"4")
    assert len(journal.pending()) == 2, "a commit is not seen, so the records stay until the next delivery"
    client.memory.snapshot(project, "CLAUDE.md", b"5")
    assert journal.is_empty()
    assert history(client, project) == [b"1", b"2", b"3", b"4", b"5"]


def test_an_operation_that_fails_in_a_transaction_takes_its_delivery_back(
    client: Any, project: Project, journal: Journal
) -> None:
    journal.append(of(project, b"1"))
    with client.transaction() as tx:
        with pytest.raises(AtlasError):
            tx.memory.delete(project, "never there")
        tx.memory.snapshot(project, "CLAUDE.md", b"2")
    client.memory.deliver()
    assert (history(client, project), journal.is_empty()) == ([b"1", b"2"], True)


def test_a_client_for_one_user_delivers_only_that_users_records(
    client: Any, project: Project, journal: Journal
) -> None:
    eve = client.users.create("eve@example.com")
    tenant = client.as_user(eve)
    forged = evolve(project, user_id=eve.id)
    journal.append(of(project, b"1"))
    assert tenant.memory.deliver() == Delivery(remaining=1)
    with pytest.raises(AtlasError):
        tenant.memory.snapshot(forged, "CLAUDE.md", b"forged")
    with pytest.raises(NotPermitted):
        tenant.memory.snapshot(project, "CLAUDE.md", b"forged")
    assert len(journal.pending()) == 1
    assert client.as_user(project.user_id).memory.deliver() == Delivery(delivered=1)


# Refusals


def test_a_full_limit_holds_back_a_file_and_lets_others_go_on(client: Any, project: Project, journal: Journal) -> None:
    client.quotas.set_limits(client.users.get(project.user_id), memory_bytes=5_000, memory_hard=True)
    large = os.urandom(10_000)
    journal.append([*of(project, large, b"small"), *of(project, b"ok", path="b.md")])
    done = client.memory.deliver()
    assert (done.delivered, done.remaining, len(done.problems)) == (1, 2, 1)
    status = journal.status()
    assert (status.held_back, status.problem) == (1, done.problems[0])
    with pytest.raises(QuotaExceeded):
        client.memory.snapshot(project, "CLAUDE.md", os.urandom(20_000))
    client.quotas.set_limits(client.users.get(project.user_id), memory_bytes=10**6)
    client.memory.snapshot(project, "CLAUDE.md", b"last")
    assert history(client, project) == [large, b"small", b"last"]


def test_a_checkpoint_waits_until_the_versions_before_it_are_stored(
    client: Any, project: Project, journal: Journal
) -> None:
    user = client.users.get(project.user_id)
    client.quotas.set_limits(user, memory_bytes=5_000, memory_hard=True)
    large = os.urandom(10_000)
    journal.append([*of(project, large), *of(project, b"ok", path="b.md"), checkpoint_of(project, "v1")])
    journal.append(of(project, b"later", path="b.md"))
    assert client.memory.deliver().delivered == 1
    assert client.memory.checkpoints(project) == []
    client.quotas.set_limits(user, memory_bytes=10**6)
    client.memory.snapshot(project, "c.md", b"direct")
    assert client.memory.read(project, "CLAUDE.md", "v1") == large
    assert client.memory.read(project, "b.md", "v1") == b"ok"
    assert history(client, project, "b.md") == [b"ok", b"later"]


def test_a_record_of_an_unknown_project_stays_and_stops_nobody(client: Any, project: Project, journal: Journal) -> None:
    elsewhere = evolve(project, id=UUID(int=5))
    lost = [*of(elsewhere, b"1"), checkpoint_of(elsewhere, "v1")]
    journal.append([*lost, *of(project, b"2")])
    done = client.memory.deliver()
    assert (done.delivered, done.remaining) == (1, 2)
    assert len(journal.pending(held_too=True)) == 2
    assert client.memory.deliver() == Delivery(remaining=2)
    journal.append(of(evolve(project, id=UUID(int=6)), None))
    assert client.memory.deliver().remaining == 3, "a deletion is not dropped, as if its file had never existed"


def test_a_record_that_no_database_can_hold_does_not_stop_its_file(
    client: Any, project: Project, journal: Journal
) -> None:
    odd, good = of(project, b"1", b"2")
    journal.append([evolve(odd, link="\udcff"), good, checkpoint_of(project, "v1")])
    client.memory.deliver()
    client.memory.deliver()
    assert history(client, project) == [b"2"]
    assert [one.name for one in client.memory.checkpoints(project)] == ["v1"]
    assert journal.status().held_back == 1


def test_a_file_that_was_never_stored_may_be_deleted(client: Any, project: Project, journal: Journal) -> None:
    journal.append(of(project, None, path="gone.md"))
    assert client.memory.deliver() == Delivery(delivered=1)


# Checkpoints


def test_a_checkpoint_names_the_versions_before_it(client: Any, project: Project, journal: Journal) -> None:
    before = checkpoint_of(project, "v1", context={"note": "as reviewed"})
    journal.append([*of(project, b"1"), before, *of(project, b"2")])
    assert client.memory.deliver() == Delivery(delivered=3)
    (made,) = client.memory.checkpoints(project)
    assert (made.id, made.name, made.note, made.created_at) == (before.id, "v1", "as reviewed", BEGAN)
    assert made.attribution.login == "ada"
    assert client.memory.read(project, "CLAUDE.md", "v1") == b"1"


def test_a_name_that_is_taken_gets_a_number_and_a_sentence(client: Any, project: Project, journal: Journal) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"0")
    client.memory.checkpoint(project, "v1")
    journal.append([checkpoint_of(project, "v1"), checkpoint_of(project, "v1")])
    done = client.memory.deliver()
    assert done.delivered == 2
    assert [problem.rpartition(" ")[2] for problem in done.problems] == ["v1-2", "v1-3"]
    assert {one.name for one in client.memory.checkpoints(project)} == {"v1", "v1-2", "v1-3"}


# Clients and homes


def test_a_client_never_makes_a_home(client: Any, project: Project, home: Path) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"1")
    assert client.memory.deliver() == Delivery()
    assert not home.exists()


def test_a_journal_that_appears_later_is_seen(client: Any, project: Project, home: Path) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"0")
    with Journal.open(home) as journal:
        journal.append(of(project, b"1"))
        client.memory.snapshot(project, "CLAUDE.md", b"2")
        assert history(client, project) == [b"0", b"1", b"2"]


def test_a_damaged_journal_stops_no_direct_writer(
    client: Any, project: Project, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "journal").mkdir(parents=True, mode=0o700)
    (home / "journal" / "journal.db").touch(mode=0o600)
    (home / "journal" / "journal.db").write_text("no journal")
    for content in (b"1", b"2"):
        assert client.memory.snapshot(project, "CLAUDE.md", content) is not None
    assert ["not a journal of AtlasEngine" in entry.message for entry in caplog.records] == [True]
    with pytest.raises(JournalProblem):
        client.memory.deliver()


def test_a_temporary_client_leaves_the_users_journal_alone(journal: Journal, folder: Path) -> None:
    from atlas_sdk import Atlas

    with Atlas.temporary() as atlas:
        project = atlas.projects.create(atlas.users.create("ada@example.com"), path=folder)
        journal.append(of(project, b"1"))
        assert atlas.memory.deliver() == Delivery()
        assert len(journal.pending()) == 1


def test_a_client_of_a_home_uses_that_homes_journal(embedded: Any, atlas_home: Path, folder: Path) -> None:
    project = embedded.projects.create(embedded.users.local(), path=folder, session_id=uuid7().hex)
    with Journal.open(atlas_home) as journal:
        journal.append(of(project, b"1"))
        embedded.memory.snapshot(project, "CLAUDE.md", b"2")
        assert journal.is_empty(project.id)
    assert history(embedded, project) == [b"1", b"2"]


def test_a_journal_on_a_full_disk_stops_no_writer_and_repeats_nothing(
    client: Any, project: Project, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(of(project, b"one", b"two"))

    def full(_: Journal, ids: object) -> None:
        raise JournalProblem("the disk is full", path="journal.db")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "delivered", full)
        with pytest.raises(JournalProblem):
            client.memory.deliver()
        client.memory.snapshot(project, "CLAUDE.md", b"three")
    assert len(journal.pending()) == 2
    assert client.memory.deliver().remaining == 0
    assert history(client, project) == [b"one", b"two", b"three"]
