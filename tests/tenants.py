"""Two tenants with rows in every table, and the ids that an attacker knows of the other tenant."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from attrs import frozen

from atlas_sdk import Atlas, Project, User

#: A word in every text of the victim. No answer to an attacker may contain it.
SECRET = "topsecret"


@frozen(kw_only=True)
class Tenant:
    """The rows of one tenant."""

    user: User
    project: Project
    #: Ids and names, by the parameter names of statements and operations.
    known: dict[str, Any]


def settle_in(atlas: Atlas, name: str, secret: str) -> Tenant:
    """Make a tenant called `name`, with rows in every table and `secret` in their texts."""
    user = atlas.users.create(f"{name}@example.com", name=secret, plan="pro", password=f"{name}-password")
    project = atlas.projects.create(user, path=f"/srv/{secret}", name=secret, session_id=f"{name}-session")
    first = atlas.memory.snapshot(project, "CLAUDE.md", f"# Rules of {secret}\n".encode() * 40)
    second = atlas.memory.snapshot(project, "CLAUDE.md", f"# Rules of {secret}\n".encode() * 41)
    checkpoint = atlas.memory.checkpoint(project, f"{name}-checkpoint")
    build = atlas.builds.create(project)
    atlas.builds.append_log(build, f"{secret}: compiling\n")
    preview = atlas.previews.create(project, host=f"{name}.example.com")
    preview = atlas.previews.allocate_port(preview, ports=range(20000, 30000))
    held = atlas.quotas.reserve(user, tokens=10, slots=1, holder=secret, ttl=timedelta(hours=1))
    spent = atlas.quotas.reserve(user, tokens=10, meta={"agent": secret})
    atlas.quotas.settle(user, spent.id, tokens=4)
    atlas.quotas.grant(user, tokens=5, reason=secret)
    entry = atlas.usage.log(user, kind="container_minutes", amount=3, meta={"note": secret}, project=project)
    atlas.events.log("app.noted", user=user, meta={"note": secret})
    session = atlas.sessions.issue(user, user_agent=secret)
    assert first is not None
    assert second is not None
    known = {
        "user_id": user.id,
        "project_id": project.id,
        "build_id": build.id,
        "preview_id": preview.id,
        "port": preview.host_port,
        "reservation_id": held.id,
        "usage_id": entry.id,
        "snapshot_id": first.id,
        "content_id": second.id,
        "head_id": second.id,
        "session_id": session.session.id,
        "checkpoint": checkpoint.name,
        "name": checkpoint.name,
        "path": "CLAUDE.md",
        "sha256": first.sha256,
        "email": user.email,
        "host": preview.host,
        "machine": "",
    }
    return Tenant(user=user, project=project, known=known)


def complete(connection: psycopg.Connection[Any], tenant: Tenant) -> None:
    """Add rows that only time or a restore makes: a closed period, sums of old usage, a waiting call and a restore."""
    connection.execute(
        "INSERT INTO quota_history (user_id, period_start, period_end, tokens_used, cost_used, closed_at)"
        " VALUES (%s, now() - interval '2 months', now() - interval '1 month', 7, 0, now())",
        (tenant.user.id,),
    )
    connection.execute(
        "INSERT INTO quota_waiters VALUES (%s, gen_random_uuid(), 1, now(), now() + interval '1 hour')",
        (tenant.user.id,),
    )
    connection.execute(
        "INSERT INTO usage_sums (user_id, until, sums) VALUES (%s, now() - interval '2 days', '{}')", (tenant.user.id,)
    )
    connection.execute(
        "INSERT INTO restores (user_id, project_id, id, target, safety, changes)"
        " VALUES (%s, %s, gen_random_uuid(), %s, 'safety', '[]')",
        (tenant.user.id, tenant.project.id, tenant.user.name),
    )


#: Tables of the platform. The user of their rows is the nil id.
PLATFORM = ("maintenance_runs",)


def tenant_tables(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the tables with rows of tenants, each with the column of the tenant's id."""
    rows = connection.execute(
        "SELECT c.relname, CASE c.relname WHEN 'users' THEN 'id' ELSE 'user_id' END FROM pg_class AS c"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped"
        "   AND a.attname = CASE c.relname WHEN 'users' THEN 'id' ELSE 'user_id' END"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> ALL(%s)"
        " ORDER BY 1",
        (list(PLATFORM),),
    ).fetchall()
    return dict(rows)


def rows_of(connection: psycopg.Connection[Any], table: str, owner: str, user_id: UUID) -> list[dict[str, Any]]:
    """Return a tenant's rows of a table as JSON objects, as the owner of the tables sees them."""
    query = psycopg.sql.SQL("SELECT to_jsonb(t) FROM {} AS t WHERE {} = %s ORDER BY to_jsonb(t)::text").format(
        psycopg.sql.Identifier(table), psycopg.sql.Identifier(owner)
    )
    return [row for (row,) in connection.execute(query, (user_id,)).fetchall()]


def everything_of(connection: psycopg.Connection[Any], user_id: UUID) -> str:
    """Return all rows of a tenant, to compare them before and after an attack."""
    tables = tenant_tables(connection)
    return json.dumps({table: rows_of(connection, table, owner, user_id) for table, owner in tables.items()})
