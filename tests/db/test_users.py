"""The account of a user: verified, changed, listed, deleted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from guard_adapter import until, waiting
from patience import PATIENCE_S

from atlas_sdk import AlreadyExists, Atlas, InvalidInput, InvalidToken, NotFound, User
from atlas_sdk.results import UserDeletion

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")

PASSWORD = "correct horse battery"


def events_of(connection: psycopg.Connection[Any], user_id: object) -> list[tuple[str, dict[str, Any]]]:
    rows = connection.execute("SELECT type, meta FROM events WHERE user_id = %s ORDER BY id", [user_id]).fetchall()
    return [
        (kind, {name: value for name, value in meta.items() if name not in {"source", "login"}}) for kind, meta in rows
    ]


# The account itself.


def test_an_address_is_verified_once(client: Any, migrated: Any) -> None:
    user = client.users.create("ada@example.com")
    verified = client.users.verify_email(user)
    assert (verified.id, verified.email_verified) == (user.id, True)
    assert client.users.verify_email(user) == verified
    assert [kind for kind, _ in events_of(migrated, user.id)] == ["user.created", "user.email_verified"]
    migrated.execute("UPDATE users SET email = 'new@example.com', email_verified = false WHERE id = %s", [user.id])
    with pytest.raises(NotFound, match="another address"):
        client.users.verify_email(user)
    assert not client.users.get(user.id).email_verified


def test_a_name_is_changed_and_nothing_else(client: Any, migrated: Any) -> None:
    user = client.users.create("ada@example.com", name="Ada")
    renamed = client.users.update(user, name="Ada Lovelace")
    assert (renamed.name, renamed.email, renamed.plan) == ("Ada Lovelace", user.email, user.plan)
    assert client.users.update(renamed, name="Ada Lovelace") == client.users.update(renamed) == renamed
    assert [kind for kind, _ in events_of(migrated, user.id)] == ["user.created", "user.updated"]
    with pytest.raises(InvalidInput):
        client.users.update(user, name="x" * 201)


def test_a_change_of_plan_is_on_record_once_with_the_plan_before(client: Any, migrated: Any) -> None:
    user = client.users.create("ada@example.com")
    pro = client.users.set_plan(user, "pro")
    assert pro.plan == "pro"
    assert client.users.set_plan(pro, "pro") == client.users.set_plan(user, "pro") == pro
    # The object is old, so the event must take the former plan from the row.
    assert client.users.set_plan(user, "enterprise").plan == "enterprise"
    changed = [meta for kind, meta in events_of(migrated, user.id) if kind == "user.plan_changed"]
    assert changed == [{"from": "free", "to": "pro"}, {"from": "pro", "to": "enterprise"}]
    client.users.delete(user)
    with pytest.raises(NotFound):
        client.users.set_plan(user, "pro")


def test_changes_of_a_plan_at_once_are_on_record_one_after_the_other(client: Any, dsn: str, migrated: Any) -> None:
    user = client.users.create("ada@example.com")
    with ThreadPoolExecutor(1) as threads, Atlas.open(dsn) as other:
        with other.transaction() as changing:
            changing.users.set_plan(user, "pro")
            second = threads.submit(client.users.set_plan, user, "enterprise")
            until(lambda: second.done() or waiting(dsn))
        assert second.result(PATIENCE_S).plan == "enterprise"
    changed = [meta for kind, meta in events_of(migrated, user.id) if kind == "user.plan_changed"]
    assert changed == [{"from": "free", "to": "pro"}, {"from": "pro", "to": "enterprise"}]


def test_users_are_listed_page_by_page(client: Any) -> None:
    made = [client.users.create(f"user{number}@example.com") for number in range(5)]
    assert client.users.list() == made
    first = client.users.list(limit=2)
    assert first == made[:2]
    assert client.users.list(after=first[-1], limit=2) == made[2:4]
    assert client.users.list(after=made[-1]) == []
    for limit in (0, 10_001):
        with pytest.raises(InvalidInput, match="limit"):
            client.users.list(limit=limit)


def rows_of(connection: psycopg.Connection[Any], user_id: object) -> dict[str, int]:
    """Return the number of a user's rows in each table that has some."""
    tables = connection.execute(
        """SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
           WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
             AND a.attname = 'user_id' ORDER BY 1"""
    ).fetchall()
    count = "SELECT count(*) FROM {} WHERE {} = %s"
    named = [(name, "user_id") for (name,) in tables] + [("users", "id")]
    found = {
        name: connection.execute(
            psycopg.sql.SQL(count).format(psycopg.sql.Identifier(name), psycopg.sql.Identifier(column)), [user_id]
        ).fetchone()[0]
        for name, column in named
    }
    return {name: rows for name, rows in found.items() if rows}


def fill(client: Any, connection: psycopg.Connection[Any], name: str, folder: Path) -> User:
    """Make a user who has rows in the tables of every topic."""
    user = client.users.create(f"{name}@example.com", password=PASSWORD)
    project = client.projects.create(user, path=folder, session_id=f"session-of-{name}")
    for text in (b"# Rules\n", b"# Rules\n\nBe kind.\n", b"# Rules\n\nBe kind, and brief.\n"):
        client.memory.snapshot(project, "CLAUDE.md", text)
    client.memory.checkpoint(project, "one")
    client.memory.snapshot(project, "CLAUDE.md", b"")
    client.memory.restore(project, "one")
    client.sessions.issue(user)
    client.quotas.grant(user, tokens=5)
    client.quotas.settle(user, client.quotas.reserve(user, tokens=5).id)
    client.quotas.reserve(user, tokens=5)
    build = connection.execute(
        "INSERT INTO builds (user_id, project_id) VALUES (%s, %s) RETURNING id", [user.id, project.id]
    ).fetchone()[0]
    connection.execute(
        "INSERT INTO build_logs (user_id, build_id, ends_at, content) VALUES (%s, %s, 1, 'x')", [user.id, build]
    )
    preview = connection.execute(
        "INSERT INTO previews (user_id, project_id, host) VALUES (%s, %s, %s) RETURNING id",
        [user.id, project.id, f"{name}.example.com"],
    ).fetchone()[0]
    connection.execute(
        "INSERT INTO claims (kind, value, user_id) VALUES ('preview_host', %s, %s)", [f"{name}.example.com", user.id]
    )
    connection.execute(
        "INSERT INTO preview_ports (machine, port, user_id, preview_id) VALUES (%s, 8000, %s, %s)",
        [name, user.id, preview],
    )
    return user


def test_deleting_a_user_leaves_the_audit_and_nothing_else(client: Any, migrated: Any, folder: Path) -> None:
    ada, bob = (fill(client, migrated, name, folder) for name in ("ada", "bob"))
    before, bobs = rows_of(migrated, ada.id), rows_of(migrated, bob.id)
    assert {"users", "claims", "sessions", "memory_blobs", "quota_reservations", "usage_ledger"} <= before.keys()
    gone = client.users.delete(ada)
    assert gone == UserDeletion(
        user_id=ada.id,
        projects=1,
        builds=1,
        previews=1,
        sessions=1,
        claims=3,
        memory_snapshots=before["memory_snapshots"],
        usage_entries=before["usage_ledger"],
    )
    assert rows_of(migrated, ada.id) == {"events": before["events"] + 1}
    assert rows_of(migrated, bob.id) == bobs
    kind, counts = events_of(migrated, ada.id)[-1]
    assert (kind, counts["projects"]) == ("user.deleted", 1)
    assert client.users.delete(ada) is None
    assert rows_of(migrated, ada.id) == {"events": before["events"] + 1}
    with pytest.raises(NotFound):
        client.users.get(ada.id)
    assert client.users.authenticate("ada@example.com", PASSWORD) is None
    # The names are free again, and the new user is another one.
    assert client.users.create("ada@example.com").id != ada.id
    with pytest.raises(AlreadyExists):
        client.users.create("bob@example.com")


def test_the_tokens_of_a_deleted_user_are_worth_nothing(client: Any) -> None:
    user = client.users.create("ada@example.com")
    issued = client.sessions.issue(user)
    client.users.delete(user)
    with pytest.raises(InvalidToken):
        client.sessions.verify(issued.token)
    assert not client.sessions.touch(issued.session)
    assert client.sessions.revoke(issued.session) is None
    assert client.sessions.revoke_all(user) == 0
    with pytest.raises(NotFound):
        client.sessions.issue(user)


def test_what_is_added_while_a_user_is_deleted_is_refused(dsn: str, folder: Path) -> None:
    """No claim is left, regardless of the order of the commits."""
    with Atlas.open(dsn) as atlas, psycopg.connect(dsn, autocommit=True) as connection:
        for round_ in range(10):
            user = atlas.users.create("ada@example.com")
            together = threading.Barrier(3)
            failures: list[BaseException] = []

            def at_once(action: Any, together: Any = together, failures: Any = failures) -> threading.Thread:
                def run() -> None:
                    together.wait(PATIENCE_S)
                    try:
                        action()
                    except NotFound:
                        pass
                    except BaseException as exc:  # noqa: BLE001  # shown by the assertion
                        failures.append(exc)

                thread = threading.Thread(target=run)
                thread.start()
                return thread

            threads = [
                at_once(lambda user=user: atlas.users.delete(user)),
                at_once(lambda user=user, n=round_: atlas.projects.create(user, path=folder, session_id=f"s{n}")),
                at_once(lambda user=user: atlas.quotas.reserve(user, tokens=1)),
            ]
            for thread in threads:
                thread.join(PATIENCE_S)
            assert failures == []
            assert rows_of(connection, user.id).keys() <= {"events"}


def test_a_deletion_and_a_settlement_do_not_wait_for_each_other(dsn: str) -> None:
    # If the test fails, the settlement's connection closes first, because the other thread may wait for it.
    with ThreadPoolExecutor(1) as threads, Atlas.open(dsn) as atlas, psycopg.connect(dsn) as settling:
        user = atlas.users.create("ada@example.com")
        # Do the steps of a settlement: lock the limits, then insert a row that belongs to the user.
        settling.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", [user.id])
        deletion = threads.submit(atlas.users.delete, user)
        until(lambda: waiting(dsn))
        settling.execute("INSERT INTO usage_ledger (user_id, kind, amount) VALUES (%s, 'tokens', 1)", [user.id])
        settling.commit()
        gone = deletion.result(PATIENCE_S)
        assert gone is not None
        assert gone.usage_entries == 1
