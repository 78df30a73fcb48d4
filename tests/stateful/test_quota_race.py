"""A short race for every limit. The long one is `python -m benchmarks.race_quotas --minutes 10 --processes 64`."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import programs
import psycopg
import pytest
from patience import PATIENCE_S

from benchmarks.race_quotas.journal import Grant, Journal, Outcome, Paid, Refunded, Stay, entries
from benchmarks.race_quotas.sabotage import SABOTAGES, sabotage
from benchmarks.race_quotas.verdict import Evidence, broken_fences, miscounted, misrefunded, overlaps

ROOT = Path(__file__).parents[2]
#: A new seed for each run. The output contains it.
SEED = random.SystemRandom().randrange(10**6)


def race(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.race_quotas", "--processes", "8", "--seed", str(SEED), *options]
    return programs.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def test_no_limit_is_exceeded_while_workers_are_killed_and_the_server_crashes() -> None:
    done = race("--minutes", "0.17", "--kills", "2", "--pauses", "1", "--crashes", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers killed, 1 paused, 1 server crashes" in done.stdout
    oversold = re.search(r"([\d,]+) over its limit at the worst look", done.stdout)
    assert oversold is not None
    assert int(oversold[1].replace(",", "")) > 0


def test_the_race_finds_a_product_that_forgets_what_is_promised() -> None:
    done = race("--minutes", "0.5", "--sabotage", "holds")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "over the limit of tokens" in done.stdout


@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_fits_the_functions_as_they_are(migrated: psycopg.Connection[object], name: str) -> None:
    before = [_source(migrated, function) for function, _, _ in SABOTAGES[name]]
    sabotage(migrated.info.dsn, name)
    after = [_source(migrated, function) for function, _, _ in SABOTAGES[name]]
    assert all(old != new for old, new in zip(before, after, strict=True))


def _source(connection: psycopg.Connection[object], function: str) -> object:
    return connection.execute("SELECT pg_get_functiondef(%s::regproc)", (function,)).fetchone()


# The checks of the verdict.


def grant(epoch: int, asked: float, answered: float, id_: str | None = None) -> Grant:
    return Grant(0, id_ or f"id-{epoch}", epoch, asked, answered, 1, 0)


def test_fences_may_be_answered_in_any_order_while_they_are_asked_for_together() -> None:
    assert broken_fences([grant(2, 0.0, 1.0), grant(1, 0.5, 2.0), grant(3, 1.5, 3.0)]) == []


def test_a_lower_fence_after_a_higher_one_was_answered_is_found() -> None:
    (problem,) = broken_fences([grant(2, 0.0, 1.0), grant(1, 1.5, 2.0)])
    assert "epoch 2 was answered 0.500000 s before the lower epoch 1 was asked for" in problem


def test_two_promises_with_one_fence_are_found() -> None:
    (problem,) = broken_fences([grant(1, 0.0, 1.0, "a"), grant(1, 0.0, 1.0, "b")])
    assert "epoch 1 is of" in problem


def test_calls_on_one_block_share_its_fence() -> None:
    block = [grant(1, 0.0, 1.0, "block"), grant(2, 1.5, 2.0), grant(1, 3.0, 4.0, "block")]
    assert broken_fences(block) == []


def test_holders_of_a_slot_are_counted_at_the_same_moment() -> None:
    assert overlaps([Stay(0, 1, 0.0, 1.0), Stay(0, 2, 1.0, 2.0)]) == 1
    assert overlaps([Stay(0, 1, 0.0, 1.0), Stay(0, 2, 0.9, 2.0), Stay(0, 3, 0.95, 3.0)]) == 3


def paid(tokens: int, *, whole: bool = True) -> dict[str, Paid]:
    return {"a": Paid(0, "a", tokens, 0, whole)}


@pytest.mark.parametrize(
    ("known", "charged", "settled", "is_wrong"),
    [
        (paid(50), 50, True, False),
        (paid(50), 49, True, True),
        (paid(50), 60, True, True),
        # The settlement was lost, and the whole reservation is charged.
        (paid(50), 100, False, False),
        (paid(50), 40, False, True),
        # The worker did not note other calls on the block.
        (paid(50, whole=False), 60, True, False),
        (paid(50, whole=False), 40, True, True),
        ({}, 101, True, True),
    ],
)
def test_charges_are_compared_with_what_workers_used(
    *, known: dict[str, Paid], charged: int, settled: bool, is_wrong: bool
) -> None:
    assert bool(miscounted(known, {"a": ("a", charged, 0, 100, 0, settled)})) is is_wrong


@pytest.mark.parametrize(
    ("told", "booked", "charged", "is_wrong"),
    [
        ([5], [("a", 5)], 5, False),
        ([], [("a", 5)], 5, False),
        ([5], [], 5, True),
        ([5], [("a", 4)], 5, True),
        ([5], [("b", 5)], 5, True),
        ([5, 3], [("a", 5), ("a", 3)], 7, True),
        ([], [("b", 1)], 5, True),
    ],
)
def test_refunds_are_compared_with_charges(
    *, told: list[int], booked: list[tuple[str, int]], charged: int, is_wrong: bool
) -> None:
    known = [Refunded(0, str(number), "a", tokens, 0) for number, tokens in enumerate(told)]
    rows = [(str(number), charge, tokens, 0) for number, (charge, tokens) in enumerate(booked)]
    assert bool(misrefunded(known, rows, {"a": ("a", charged, 0, 100, 0, True)})) is is_wrong


def test_journals_are_read_back_and_added_up(tmp_path: Path) -> None:
    first, second = Journal(tmp_path / "1.jsonl"), Journal(tmp_path / "2.jsonl")
    noted = [grant(1, 0.0, 1.0), Stay(0, 7, 1.0, 2.0), Stay(0, 7, 1.0, 3.0), Outcome("slot", "released")]
    noted.append(Refunded(0, "refund", "id-1", 3, 5))
    for entry in noted:
        first.note(entry)
    second.note(Paid(0, "block", 10, 5, False))
    second.note(Paid(0, "block", 7, 1, False))
    assert list(entries(tmp_path))[:5] == noted
    evidence = Evidence.read(tmp_path)
    assert evidence.paid[0] == {"block": Paid(0, "block", 17, 6, False)}
    assert evidence.stays[0][7].until == 3.0
    assert evidence.refunds[0] == noted[4:]
    assert evidence.ends == {"released": 1}
