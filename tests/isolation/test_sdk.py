"""A tenant with the SDK tries every operation of every client, and every statement, on another tenant's rows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from attacks import Attack, silent
from attrs import evolve
from tenants import SECRET, Tenant, everything_of

from atlas_sdk import Atlas, AtlasError, NotPermitted
from atlas_sdk._namespaces import Namespace
from atlas_sdk._sql import read_statements, topics

pytestmark = pytest.mark.every_server

#: Files of statements about the whole database, which run before there are tenants.
OWNERS = {"schema", "provision", "doctor"}


def operations(atlas: Atlas) -> Iterator[tuple[str, Any]]:
    """Yield every public method of a client."""
    for topic, namespace in sorted(vars(atlas).items()):
        if isinstance(namespace, Namespace) and topic not in OWNERS:
            for name in sorted(dir(type(namespace))):
                if not name.startswith("_") and name not in {"close", "settle_pending"}:
                    yield f"{topic}.{name}", getattr(namespace, name)


def things(tenant: Tenant, atlas: Atlas, folder: Path) -> dict[str, Any]:
    """Return a tenant's objects and ids, by the names of the operations' parameters."""
    user, project = tenant.user, tenant.project
    (folder / "CLAUDE.md").write_bytes(b"# mine\n")
    return tenant.known | {
        "user": user,
        "project": project,
        "build": atlas.builds.get(user, tenant.known["build_id"]),
        "preview": atlas.previews.get(user, tenant.known["preview_id"]),
        "session": next(iter(atlas.sessions.list(user))),
        "path": "CLAUDE.md",
        "reference": "latest",
        "target": tenant.known["checkpoint"],
        "content": b"# mine\n",
        "text": "a line\n",
        "type": "app.noted",
        "kind": "tokens",
        "plan": "enterprise",
        "password": "another-password",
        "status": "running",
        "tokens": 1,
        "requests": 1,
        "amount": 1,
        "time_zone": "UTC",
        "token": "x.y.z",
        "root": folder,
        "folder": folder,
        "name": "name-of-mine",
    }


def call(operation: Any, known: dict[str, Any]) -> Any:
    """Call an operation with the victim's objects wherever it takes one, and with defaults for other parameters."""
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in inspect.signature(operation).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is not parameter.empty and name not in {"user", "project", "path", "usage_id"}:
            continue
        value = known.get(name)
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = value
        else:
            arguments.append(value)
    return operation(*arguments, **named)


def test_no_operation_reaches_another_tenant(attack: Attack, tmp_path: Path) -> None:
    """The attacker uses the victim's objects, and forged objects: its own ones with the victim's ids."""
    tenant = attack.atlas.as_user(attack.attacker.user)
    theirs = things(attack.victim, attack.atlas, tmp_path)
    mine = things(attack.attacker, attack.atlas, tmp_path)
    forged = theirs | {
        name: evolve(mine[name], id=theirs[name].id) for name in ("project", "build", "preview", "session")
    }
    forged["user"] = attack.attacker.user
    names, unmade, outcomes = [], [], []
    for name, operation in operations(tenant):
        names.append(name)
        for known in (theirs, forged):
            attack.tried += 1
            try:
                outcomes.append((name, call(operation, known)))
            except AtlasError as error:
                # With the victim's own objects, an error may repeat the texts that the caller gave.
                if known is forged:
                    silent(error)
            except (TypeError, AttributeError) as error:
                unmade.append(f"{name}: {error}")
    for outcome in outcomes:
        assert SECRET not in repr(outcome), outcome
    assert len(names) > 60, names


def test_no_statement_reaches_another_tenant(attack: Attack) -> None:
    """The attacker's login runs every statement of the product, with the victim's ids in every parameter."""
    known = attack.victim.known
    samples: list[dict[str, Any]] = [known, known | {"user_id": attack.attacker.user.id}]
    for topic in set(topics()) - OWNERS:
        for statement in read_statements(topic).values():
            names = set(re.findall(r"%\((\w+)\)s", statement.text))
            for sample in samples:
                parameters = {name: sample.get(name, DEFAULTS.get(name)) for name in names}
                if statement.text.lstrip().upper().startswith("CALL"):
                    # The procedure commits by itself, so it cannot run in a transaction that is rolled back.
                    continue
                rows = attack.sql(statement.text, parameters or None)
                assert str(attack.victim.user.id) not in repr(rows) or sample is known, (statement.name, rows)


#: Values of parameters that name no row of a tenant.
DEFAULTS: dict[str, Any] = {
    "limit": 100,
    "tokens": 1,
    "min_tokens": None,
    "cost": Decimal(0),
    "slots": 0,
    "requests": 1,
    "builds": 0,
    "ttl": timedelta(minutes=1),
    "since": datetime(2000, 1, 1, tzinfo=UTC),
    "until": datetime(2100, 1, 1, tzinfo=UTC),
    "always": True,
    "durable": True,
    "by_day": True,
    "by_model": True,
    "by_project": True,
    "status": "running",
    "type": "app.noted",
    "kind": "tokens",
}


def test_the_sql_api_of_quotas_is_for_oneself_only(attack: Attack) -> None:
    mine, victim = attack.attacker.user.id, attack.victim.user.id
    held = attack.victim.known["reservation_id"]
    calls = [
        ("SELECT quota_reserve(%s, %s, 1, NULL, 0, 0, 0, 0, '1 min', '', '{}')", (uuid4(),)),
        ("SELECT quota_lease(%s, %s, 1, 1, 0, 0, 0, 0, '1 min', '', '{}')", (uuid4(),)),
        ("SELECT quota_wait(%s, %s, 1, NULL, 0, 0, 0, 0, '1 min', '', '{}', '1 min')", (uuid4(),)),
        ("SELECT quota_leave(%s, %s)", (held,)),
        ("SELECT quota_settle(%s, %s, 0, 0, NULL, NULL)", (held,)),
        ("SELECT quota_release(%s, %s)", (held,)),
        ("SELECT quota_extend(%s, %s, 1, 0, '1 min')", (held,)),
        ("SELECT quota_progress(%s, %s, 1, 0)", (held,)),
        ("SELECT quota_add(%s, %s, 1, 0, '{}')", (uuid4(),)),
    ]
    for query, rest in calls:
        assert attack.sql(query, (victim, *rest)) == "42501", query
        assert not isinstance(attack.sql(query, (mine, *rest)), str), query
    assert attack.sql("SELECT quota_hit(%s, 1)", (victim,)) == "42501"
    attack.named(None)
    for query, rest in calls:
        assert attack.sql(query, (mine, *rest)) == "42501", query
        assert attack.sql(query, (None, *rest)) == "42501", query


def test_raises_no_limit_of_its_own(attack: Attack) -> None:
    mine = attack.attacker.user.id
    for query in (
        "UPDATE user_quotas SET tokens_limit = NULL WHERE user_id = %s",
        "UPDATE user_quotas SET tokens_used = 0 WHERE user_id = %s",
        "UPDATE users SET plan = 'enterprise' WHERE id = %s",
        "UPDATE users SET email_verified = true WHERE id = %s",
        "UPDATE plans SET tokens_limit = NULL WHERE %s IS NOT NULL",
        "DELETE FROM quota_reservations WHERE user_id = %s",
        "UPDATE quota_waiters SET number = 0 WHERE user_id = %s",
        "INSERT INTO quota_waiters VALUES (%s, gen_random_uuid(), 0, now(), now())",
        "SELECT quota_grant(%s, gen_random_uuid(), 1000, 0, NULL, '')",
        "SELECT quota_apply_plan(%s)",
        "INSERT INTO quota_grants (user_id, id, tokens, cost, created_at) VALUES (%s, gen_random_uuid(), 5, 0, now())",
        "INSERT INTO usage_ledger (user_id, kind, amount, period_start) VALUES (%s, 'tokens', -5, now())",
        "UPDATE usage_ledger SET amount = 0 WHERE user_id = %s",
        "DELETE FROM usage_ledger WHERE user_id = %s",
        "UPDATE events SET type = 'nothing' WHERE user_id = %s",
        "DELETE FROM events WHERE user_id = %s",
        "DELETE FROM memory_snapshots WHERE user_id = %s",
        "SELECT password_hash FROM users WHERE id = %s",
        "SELECT quota_post(q, NULL, -5, 0, 0) FROM user_quotas AS q WHERE q.user_id = %s",
    ):
        answer = attack.sql(query, (mine,))
        assert answer in {"42501", "42883"}, (query, answer)
        assert answer == "42501" or "quota_grant(" in query, (query, answer)


def test_a_temporary_table_is_not_taken_for_ours(attack: Attack) -> None:
    """Functions with the owner's rights use the tables of the schema, and no temporary table of the caller."""
    attack.app.execute("CREATE TEMP TABLE user_quotas (LIKE public.user_quotas)")
    attack.app.execute("SET search_path = pg_temp, public")
    with suppress(psycopg.Error):
        attack.app.execute("SELECT public.quota_hit(%s, 1)", (attack.attacker.user.id,))
    attack.tried += 1
    attack.app.rollback()
    used = attack.owner.execute(
        "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
        " AND NOT coalesce(array_to_string(proconfig, ',') LIKE 'search_path=public, pg_temp%', false)"
    ).fetchall()
    assert used == []


def test_names_of_others_are_felt_and_not_seen(attack: Attack) -> None:
    """A tenant learns that a unique name is taken, but not by whom. Of an e-mail address it learns not even that."""
    taken = "INSERT INTO claims (kind, value, user_id) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
    mine = attack.attacker.user.id
    assert attack.sql(taken, ("email", attack.victim.user.email, mine)) == "42501"
    assert attack.sql(taken, ("email", "free@example.com", mine)) == "42501"
    assert attack.sql(taken, ("preview_host", attack.victim.known["host"], mine)) == []
    assert attack.sql(taken, ("preview_host", "free.example.com", mine)) == [()]
    assert attack.sql("DELETE FROM claims WHERE kind = 'email'") == []
    assert attack.sql("SELECT 1 FROM claims WHERE kind = 'email' FOR UPDATE") == []
    assert attack.sql("UPDATE claims SET user_id = user_id WHERE kind = 'email'") == []
    host = attack.victim.known["host"]
    assert attack.sql("SELECT 1 FROM claims WHERE value = %s FOR UPDATE", (host,)) == []
    assert attack.sql("UPDATE claims SET user_id = %s WHERE value = %s", (mine, host)) == []
    # A tenant may lock its own claims, but not give them to another tenant.
    assert attack.sql("SELECT kind FROM claims WHERE user_id = %s FOR UPDATE", (mine,)) != []
    assert attack.sql("UPDATE claims SET user_id = %s WHERE kind <> 'email'", (attack.victim.user.id,)) == "42501"
    assert attack.sql("UPDATE claims SET value = 'free.example.com' WHERE user_id = %s", (mine,)) == "42501"


def test_the_same_content_is_stored_for_each(attack: Attack) -> None:
    """Neither the rows nor the time of storing a file show whether another tenant has the same file."""
    tenant = attack.atlas.as_user(attack.attacker.user)
    others = attack.atlas.as_user(attack.victim.user)
    shared, fresh = [], []
    for number in range(120):
        known, unknown = (f"{SECRET} {kind} {number}\n".encode() * 30 for kind in ("known", "other"))
        others.memory.snapshot(attack.victim.project, f"notes-{number % 7}.md", known)
        for content, times in (
            ((known, shared), (unknown, fresh)) if number % 2 else ((unknown, fresh), (known, shared))
        ):
            began = perf_counter_ns()
            assert tenant.memory.snapshot(attack.attacker.project, "probe.md", content) is not None
            times.append(perf_counter_ns() - began)
            attack.tried += 1
    # The share of pairs in which the victim's content was faster. By chance it is 0.5 ± 5 sigma.
    faster = sum((a < b) + (a == b) / 2 for a in shared for b in fresh) / len(shared) / len(fresh)
    assert 0.3 < faster < 0.7, faster
    counts = attack.owner.execute("SELECT count(*) FROM memory_blobs WHERE user_id = %s", (attack.attacker.user.id,))
    assert counts.fetchone() == (240 + 2,)
    attack.before = everything_of(attack.owner, attack.victim.user.id)


def test_a_copy_stays_with_its_user(attack: Attack) -> None:
    tenant = attack.atlas.as_user(attack.attacker.user)
    for act in (
        lambda: tenant.as_user(attack.victim.user),
        lambda: tenant.with_context(ip="192.0.2.1").as_user(attack.victim.user),
        lambda: tenant.quotas.guard(attack.victim.user, tokens=1),
        lambda: tenant.quotas.slot(attack.victim.user),
        lambda: tenant.quotas.lease(attack.victim.user, tokens=1),
        tenant.quotas.guard(lambda: attack.victim.user, tokens=1)(lambda: None),
        lambda: tenant.memory.snapshot(attack.victim.project, "CLAUDE.md", b"x"),
        lambda: tenant.memory.delete(attack.victim.project, "CLAUDE.md"),
    ):
        attack.tried += 1
        with pytest.raises(NotPermitted) as caught:
            act()
        silent(caught.value)
    with tenant.transaction() as tx, pytest.raises(NotPermitted):
        tx.projects.list(attack.victim.user)


def test_unchanged_content_of_another_is_not_told_from_memory(attack: Attack) -> None:
    """The client knows the victim's newest version, but does not reveal it."""
    content = b"# shared knowledge\n"
    attack.atlas.memory.snapshot(attack.victim.project, "CLAUDE.md", content)
    attack.before = everything_of(attack.owner, attack.victim.user.id)
    tenant = attack.atlas.as_user(attack.attacker.user)
    forged = evolve(attack.victim.project, user_id=attack.attacker.user.id)
    for project in (attack.victim.project, forged):
        attack.tried += 1
        with pytest.raises(AtlasError) as caught:
            tenant.memory.snapshot(project, "CLAUDE.md", content)
        silent(caught.value)
