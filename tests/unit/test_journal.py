"""The journal keeps records in order, with every field, for any number of writers."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from attrs import evolve
from journaling import PROJECT, START, checkpoint, project, record, records

from atlas_sdk import Attribution, FileProblem, InvalidInput
from atlas_sdk.files import Signature
from atlas_sdk.journal import Journal, JournalProblem, JournalStatus, KnownHead

OTHER = UUID(int=9)
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "home") as opened:
        yield opened


def contents(found):
    return [one.content for one in found]


def test_no_journal_is_made_by_looking_for_one(tmp_path):
    assert Journal.existing(tmp_path / "home") is None
    assert list(tmp_path.iterdir()) == []


def test_every_field_comes_back(journal):
    full = record(
        b"\0\xff",
        path=os.fsdecode(b"notes/\xff\n.md"),
        mode=0o600,
        link="../other.md",
        folder_modes=(0o755, 0o700),
        reason="restore",
        context={"torn": True, "words": "é"},
        attribution=Attribution(source="hook", tool="Edit", agent_session="s", login="ada"),
    )
    hash_only = record(None, op="version", sha256=b"2" * 32, size=9_000_000, mode=-1)
    journal.append([full, hash_only, record(None), checkpoint("v1", context={"note": "n"})])
    assert journal.pending()[:2] == [full, hash_only]
    assert [(one.op, one.name) for one in journal.pending()[2:]] == [("deletion", None), ("checkpoint", "v1")]
    with Journal.existing(journal.home) as again:
        assert again.pending() == journal.pending()


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(InvalidInput, match="captured_at must have a time zone"):
        record(captured_at=datetime(2026, 1, 1))  # noqa: DTZ001


def test_pending_is_in_the_order_of_append_and_bounded(journal):
    journal.append(records(b"1", b"2"))
    journal.append(records(b"33333", path="b.md", project_id=OTHER))
    journal.append(records(b"4"))
    assert contents(journal.pending()) == [b"1", b"2", b"33333", b"4"]
    assert contents(journal.pending(PROJECT)) == [b"1", b"2", b"4"]
    assert contents(journal.pending(OTHER, "b.md")) == [b"33333"]
    assert contents(journal.pending(limit=2)) == [b"1", b"2"]
    assert contents(journal.pending(max_bytes=3)) == [b"1", b"2"]
    assert contents(journal.pending(OTHER, max_bytes=1)) == [b"33333"]


def test_an_append_of_the_same_ids_is_stored_once(journal):
    made = records(b"1", b"2")
    journal.append(made)
    journal.append([*made, record(b"3")])
    assert contents(journal.pending()) == [b"1", b"2", b"3"]


def test_delivered_records_are_gone(journal):
    made = records(b"1", b"2", b"3")
    journal.append(made)
    journal.delivered([made[1].id, UUID(int=77)])
    assert contents(journal.pending()) == [b"1", b"3"]
    assert not journal.is_empty()
    assert journal.is_empty(OTHER)
    journal.delivered([made[0].id, made[2].id])
    assert journal.is_empty()
    assert journal.is_empty(PROJECT)


def test_a_record_that_is_held_back_stops_only_its_own_file(journal):
    made = records(b"1", b"2")
    journal.append([*made, record(b"other", path="b.md")])
    journal.hold_back(made[0].id, "the limit is full", LATER)
    assert contents(journal.pending()) == [b"other"]
    assert contents(journal.pending(held_too=True)) == [b"1", b"2", b"other"]
    status = journal.status()
    assert (status.held_back, status.problem) == (1, "the limit is full")
    journal.hold_back(made[0].id, "the limit is full", START)
    assert contents(journal.pending()) == [b"1", b"2", b"other"]


def test_a_checkpoint_waits_for_the_files_before_it_and_stops_those_after_it(journal):
    held = record(b"1")
    journal.append([held, record(b"b1", path="b.md"), checkpoint(), record(b"b2", path="b.md")])
    journal.append([checkpoint(project_id=OTHER), record(b"x", project_id=OTHER)])
    journal.hold_back(held.id, "no", LATER)
    assert contents(journal.pending()) == [b"b1", None, b"x"]
    assert journal.pending(PROJECT, "b.md")[-1].content == b"b1"


def test_heads_are_stored_with_the_records_and_replaced(journal):
    signature = Signature(mtime_ns=1, ctime_ns=2, size=3, ino=2**64 - 1, dev=5)
    head = KnownHead(
        path=os.fsdecode(b"\xff.md"), sha256=b"1" * 32, mode=0o600, link="a", kept=True, captured_at=START,
        signature=signature,
    )  # fmt: skip
    gone = KnownHead(path="b.md", sha256=None, mode=0o644, link=None, kept=True, captured_at=START)
    journal.append([record()], {PROJECT: [head, gone], OTHER: [gone]})
    assert journal.heads() == {PROJECT: [gone, head], OTHER: [gone]}
    again = KnownHead(path="b.md", sha256=b"3" * 32, mode=0o644, link=None, kept=False, captured_at=START)
    journal.append([], {PROJECT: [again]})
    assert journal.heads(PROJECT) == {PROJECT: [again, head]}
    journal.forget_heads(PROJECT, ["b.md"])
    assert journal.heads(PROJECT) == {PROJECT: [head]}
    journal.forget_heads(PROJECT)
    assert journal.heads() == {OTHER: [gone]}


def test_projects_are_remembered(journal):
    odd = project(3, path="/srv/\\xff", name="é", status="archived")
    journal.remember_projects([project(2), odd])
    journal.remember_projects([project(2, name="new")])
    assert journal.projects() == [project(2, name="new"), odd]
    journal.remember_projects([odd], complete=True)
    assert journal.projects() == [odd]


def test_forgetting_a_project_says_how_many_records_are_lost(journal):
    journal.append([*records(b"1", b"2"), record(project_id=OTHER)])
    journal.remember_projects([project(2)])
    assert journal.forget_project(PROJECT) == 2
    assert (journal.projects(), journal.is_empty(PROJECT), journal.is_empty(OTHER)) == ([], True, False)


def test_status_and_files_count_what_is_only_here(journal):
    assert journal.status() == JournalStatus()
    journal.append([*records(b"11", b"222", None), checkpoint(), record(b"4", path="a.md")])
    status = journal.status()
    assert (status.records, status.bytes, status.oldest_at, status.problem) == (5, 6, START, None)
    first, second = journal.files(PROJECT)
    assert (first.path, first.records, first.bytes) == ("CLAUDE.md", 3, 5)
    assert (first.oldest_at, first.newest_at, first.sha256) == (START, START + timedelta(seconds=2), None)
    assert (second.path, second.sha256) == ("a.md", record(b"4").sha256)


def test_a_journal_problem_is_a_file_problem_with_the_path(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "journal").write_text("")
    with pytest.raises(JournalProblem) as caught:
        Journal.open(tmp_path / "home")
    assert isinstance(caught.value, FileProblem)
    assert caught.value.path.endswith("journal")


def test_a_time_that_sqlite_cannot_hold_costs_the_signature_alone(journal):
    far = Signature(mtime_ns=2**63, ctime_ns=1, size=3, ino=2**63 + 1, dev=1)
    near = evolve(far, mtime_ns=2**63 - 1)
    known = KnownHead(
        path="CLAUDE.md", sha256=bytes(32), mode=0o644, link=None, kept=True, captured_at=START, signature=far
    )
    journal.append([record()], {PROJECT: [known, evolve(known, path="NOTES.md", signature=near)]})
    assert {head.path: head.signature for head in journal.heads()[PROJECT]} == {"CLAUDE.md": None, "NOTES.md": near}
