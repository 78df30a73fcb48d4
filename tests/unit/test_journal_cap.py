"""A full journal drops intermediate versions, the oldest first, and never what must be kept."""

from __future__ import annotations

import os
from uuid import UUID

import pytest
from journaling import checkpoint, record

from atlas_sdk.journal import Journal, JournalProblem

BLOCK = 20_000
LIMIT = 30 * BLOCK


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "home", limit_bytes=LIMIT) as opened:
        yield opened


def block(path="CLAUDE.md", **fields):
    return record(os.urandom(BLOCK), path=path, **fields)


def kept(journal, path):
    return [one.id for one in journal.pending(path=path, limit=10**6, max_bytes=2**30)]


def append_each(journal, made):
    for one in made:
        journal.append([one])
    return [one.id for one in made]


def test_intermediate_versions_go_oldest_first(journal):
    first = append_each(journal, [block() for _ in range(25)])
    assert journal.status().dropped == 0
    second = append_each(journal, [block("b.md") for _ in range(10)])
    found = kept(journal, "CLAUDE.md")
    assert (found[0], found[-1]) == (first[0], first[-1])
    dropped = len(first) - len(found)
    assert found[1:] == first[1 + dropped :], "the oldest went first"
    assert kept(journal, "b.md") == second
    status = journal.status()
    assert (status.dropped, status.dropped_at is None) == (dropped, False)
    assert journal.path.stat().st_size <= LIMIT + 4 * BLOCK


def test_what_cannot_go_makes_the_append_fail_and_stores_nothing(journal):
    made = append_each(journal, [block(f"{number}.md") for number in range(13)])
    made += append_each(journal, [block(f"{number}.md") for number in range(13)])
    with pytest.raises(JournalProblem, match=r"is full: it has 600,000 bytes .* see that the database can be reached"):
        append_each(journal, [block(f"new-{number}.md") for number in range(5)])
    found = journal.pending(limit=10**6, max_bytes=2**30)
    assert [one.id for one in found][: len(made)] == made
    assert journal.status().dropped == 0


def test_checkpoints_and_the_versions_that_they_name_stay(journal):
    """The last version before a checkpoint belongs to it, so it must not go."""
    made = append_each(journal, [block() for _ in range(10)])
    journal.append([checkpoint("v1")])
    other = [block(project_id=UUID(int=7)) for _ in range(2)]
    append_each(journal, other)
    later = append_each(journal, [block() for _ in range(25)])
    found = kept(journal, "CLAUDE.md")
    assert {made[0], made[-1], later[0], later[-1], other[0].id, other[1].id} - {later[0]} <= set(found)
    assert made[4] not in found
    assert [one.name for one in journal.pending(limit=10**6, max_bytes=2**30) if one.op == "checkpoint"] == ["v1"]


def test_delivered_records_make_room(journal):
    for _ in range(3):
        made = [block(f"{number}.md") for number in range(20)]
        append_each(journal, made)
        journal.delivered([one.id for one in made])
    assert (journal.status().dropped, journal.is_empty()) == (0, True)
