"""The kept sums of the ledger: whatever happens to the entries, the sum of everything equals a scan."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from upkeep import wait_until_blocked

from atlas_sdk import Atlas, User
from atlas_sdk.model.usage import UsageTotal

Admin = psycopg.Connection[Any]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
KINDS = ("tokens", "minutes", "bytes")
ADD = """INSERT INTO usage_ledger (user_id, kind, amount, cost, created_at, reservation_id, period_start)
         VALUES (%(user)s, %(kind)s, %(amount)s, %(cost)s, now() - make_interval(hours => %(hours)s), %(of)s, now())"""
SUM_UP = "SELECT maintenance_sum_usage('00000000-0000-0000-0000-000000000000', 100, 5000)"


@pytest.fixture
def users(atlas: Atlas) -> list[User]:
    return [atlas.users.create(f"{name}@example.com") for name in ("ada", "bob")]


def entry(user: User, hours: int, kind: str = "minutes", amount: int = 1, of: object = None) -> dict[str, object]:
    return {"user": user.id, "kind": kind, "amount": amount, "cost": amount, "hours": hours, "of": of}


def scanned(atlas: Atlas, user: User, until: datetime | None = None) -> list[UsageTotal]:
    """Return the sums from the entries: a sum since a moment never uses the kept ones."""
    return atlas.usage.totals(user, since=LONG_AGO, until=until)


def step(chance: random.Random, atlas: Atlas, admin: Admin, user: User) -> None:
    hours = chance.choice([0, 1, 30, 47, 49, 70, 24 * 40])
    action = chance.choice(["log", "add", "add", "release", "change", "move", "delete", "sum", "sum", "sum"])
    if action == "log":
        atlas.usage.log(user, kind=chance.choice(KINDS[1:]), amount=chance.randint(-3, 9), cost="0.000000001")
    elif action == "add":
        for _ in range(chance.randint(1, 4)):
            admin.execute(ADD, entry(user, hours, chance.choice(KINDS), chance.randint(-3, 9)))
    elif action == "release":
        admin.execute(ADD, entry(user, hours, "released", 0, user.id) | {"of": chance_id(chance)})
    elif action == "sum":
        atlas.maintenance.run("usage", batch=chance.choice([1, 3, 5000]))
    else:
        change = {
            "change": "UPDATE usage_ledger SET amount = amount + 1, cost = cost * 2",
            "move": "UPDATE usage_ledger SET created_at = created_at - interval '1 day'",
            "delete": "DELETE FROM usage_ledger",
        }[action]
        some = " WHERE id IN (SELECT id FROM usage_ledger WHERE user_id = %s ORDER BY amount, id LIMIT 2)"
        admin.execute((change + some).encode(), [user.id])


def chance_id(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"


@pytest.mark.parametrize("seed", range(4))
def test_sums_equal_a_scan_after_every_change(atlas: Atlas, migrated: Admin, users: list[User], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        step(chance, atlas, migrated, chance.choice(users))
        for user in users:
            for until in (None, datetime.now(UTC) - timedelta(hours=chance.choice([1, 48, 60]))):
                assert atlas.usage.totals(user, until=until) == scanned(atlas, user, until)
    atlas.users.delete(users[0])
    assert atlas.usage.totals(users[0]) == []
    atlas.maintenance.run("usage")
    migrated.execute("TRUNCATE usage_ledger")
    assert atlas.usage.totals(users[1]) == []


def test_old_entries_are_summed_up_once_and_for_the_sum_of_everything_alone(
    atlas: Atlas, migrated: Admin, users: list[User]
) -> None:
    user = users[0]
    for hours in (0, 47, 49, 500):
        migrated.execute(ADD, entry(user, hours))
    report = atlas.maintenance.sum_usage()
    assert (report.name, report.examined, report.removed) == ("usage", 2, 0)
    assert kept(migrated, user) == {"minutes": [2, 2, 2]}
    # A wrong sum shows which calls use it.
    migrated.execute("""UPDATE usage_sums SET sums = '{"minutes": [102, 2, 2]}' WHERE user_id = %s""", [user.id])
    assert [total.entries for total in atlas.usage.totals(user)] == [104]
    assert [total.entries for total in atlas.as_user(user).usage.totals(user)] == [104]
    assert [total.entries for total in scanned(atlas, user)] == [4]
    assert sum(total.entries for total in atlas.usage.totals(user, by="day")) == 4
    assert [total.entries for total in atlas.usage.totals(user, by="model")] == [4]
    assert [total.entries for total in atlas.usage.totals(user, by="project")] == [4]
    assert [total.entries for total in atlas.usage.totals(user, until=datetime.now(UTC) - timedelta(hours=60))] == [1]
    # New entries leave the sums alone, and the next run reads only those that have become old.
    atlas.usage.log(user, kind="minutes", amount=1)
    assert atlas.maintenance.sum_usage(dry_run=True).examined == 0
    atlas.maintenance.sum_usage()
    assert kept(migrated, user) == {"minutes": [102, 2, 2]}


def kept(admin: Admin, user: User) -> dict[str, list[int]]:
    row = admin.execute("SELECT sums FROM usage_sums WHERE user_id = %s", [user.id]).fetchone()
    assert row is not None
    return {kind: [int(number) for number in sums] for kind, sums in row[0].items()}


def test_a_user_with_an_open_entry_is_left_to_the_next_run(
    atlas: Atlas, migrated: Admin, dsn: str, users: list[User]
) -> None:
    for user in users:
        migrated.execute(ADD, entry(user, 100))
    with psycopg.connect(dsn) as open_transaction:
        open_transaction.execute(ADD, entry(users[0], 0))
        atlas.maintenance.sum_usage(batch=1)
        assert (kept(migrated, users[0]), kept(migrated, users[1])) == ({}, {"minutes": [1, 1, 1]})
        open_transaction.commit()
    atlas.maintenance.sum_usage()
    assert kept(migrated, users[0]) == {"minutes": [1, 1, 1]}


CHANGES = {
    "an old entry is added": ADD,
    "an entry is changed": "UPDATE usage_ledger SET amount = 7 WHERE user_id = %(user)s",
    "entries are deleted": "DELETE FROM usage_ledger WHERE user_id = %(user)s",
}


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("before", [False, True], ids=["first sum", "later sum"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_waits_for_maintenance_that_sums_up(
    atlas: Atlas, migrated: Admin, dsn: str, users: list[User], *, change: str, before: bool, level: str
) -> None:
    user = users[0]
    migrated.execute(ADD, entry(user, 100))
    migrated.execute("DELETE FROM usage_sums")
    if before:
        atlas.maintenance.sum_usage()
        # An entry that is just old enough for the next sum.
        migrated.execute("ALTER TABLE usage_ledger DISABLE TRIGGER USER")
        migrated.execute("UPDATE usage_sums SET until = until - interval '1 hour'")
        migrated.execute(ADD, entry(user, 48))
        migrated.execute("ALTER TABLE usage_ledger ENABLE TRIGGER USER")
    with psycopg.connect(dsn) as maintaining, psycopg.connect(dsn) as changing, ThreadPoolExecutor(1) as threads:
        changing.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
        # The snapshot of a repeatable read.
        changing.execute("SELECT 1 FROM usage_ledger")
        maintaining.execute(SUM_UP)
        changed = threads.submit(changing.execute, CHANGES[change].encode(), entry(user, 100))
        wait_until_blocked(migrated)
        maintaining.commit()
        try:
            changed.result(30)
            changing.commit()
        except psycopg.errors.SerializationFailure:
            assert level == "REPEATABLE READ"
    assert atlas.usage.totals(user) == scanned(atlas, user)
