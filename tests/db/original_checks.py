"""Checks of the effects of each example in the first table of docs/operations.md, through the blocking client."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from original_examples import READY_HASH, ROWS, World
from patience import PATIENCE_S

import atlas_sdk

CHECKS: dict[str, Callable[[World], None]] = {}


def of_row(name: str) -> Callable[[Callable[[World], None]], None]:
    def register(check: Callable[[World], None]) -> None:
        assert name not in CHECKS
        CHECKS[name] = check

    return register


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ATLAS_", "PG", "DB_"))}


@of_row("createUser")
def _(world: World) -> None:
    user = world.run("createUser")
    assert world.see.users.by_email("ada@example.com") == user
    assert world.see.quotas.usage(user).tokens_limit == 1_000_000
    with psycopg.connect(world.dsn) as connection:
        assert connection.execute("SELECT password_hash FROM users").fetchall() == [(READY_HASH,)]


@of_row("findUserByEmail")
def _(world: World) -> None:
    assert world.run("findUserByEmail") is None
    user = world.user()
    assert world.run("findUserByEmail") == user


@of_row("findUserById")
def _(world: World) -> None:
    user = world.user()
    assert world.run("findUserById") == user


@of_row("getUserQuotas")
def _(world: World) -> None:
    user = world.user()
    assert world.run("getUserQuotas") == world.see.quotas.usage(user)


@of_row("updateTokenUsage")
def _(world: World) -> None:
    user = world.user()
    world.run("updateTokenUsage")
    world.run("updateTokenUsage")
    usage = world.see.quotas.usage(user)
    assert (usage.tokens_used, usage.cost_used) == (3000, Decimal("0.06"))


@of_row("checkUserQuota")
def _(world: World) -> None:
    user = world.user()
    assert not world.run("checkUserQuota").exceeded
    world.see.quotas.set_limits(user, tokens=0)
    check = world.run("checkUserQuota")
    assert (check.exceeded, check.dimension) == (True, "tokens")
    assert check.reason


@of_row("resetMonthlyQuotas")
def _(world: World) -> None:
    user = world.user()
    world.see.quotas.add_tokens(user, 5)
    assert world.run("resetMonthlyQuotas") == 0
    with psycopg.connect(world.dsn) as connection:
        connection.execute(
            "UPDATE user_quotas SET period_anchor = period_anchor - interval '40 days',"
            " period_start = period_start - interval '40 days', period_end = period_end - interval '40 days'"
        )
    assert world.run("resetMonthlyQuotas") == 1
    assert world.see.quotas.usage(user).tokens_used == 0


@of_row("createProject")
def _(world: World) -> None:
    user = world.user()
    project = world.run("createProject")
    assert (project.name, project.framework) == ("app", "django")
    assert world.see.projects.list(user) == [project]


@of_row("getProjectById")
def _(world: World) -> None:
    project = world.project()
    assert world.run("getProjectById") == project


@of_row("getUserProjects")
def _(world: World) -> None:
    first = world.project()
    second = world.see.projects.create(world.names["user"], path="/srv/b")
    world.see.projects.create(world.see.users.create("bob@example.com"), path="/srv/c")
    assert world.run("getUserProjects") == [second, first]


@of_row("updateProjectMemory")
def _(world: World) -> None:
    project = world.project()
    world.see.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    changed = world.run("updateProjectMemory")
    assert (changed.has_memory, changed.memory_size) == (True, 8)


@of_row("createBuild")
def _(world: World) -> None:
    project = world.project()
    build = world.run("createBuild")
    assert (build.status, build.project_id) == ("queued", project.id)
    assert world.see.builds.list(project) == [build]


@of_row("updateBuildStatus")
def _(world: World) -> None:
    world.knows(build=world.see.builds.create(world.project()))
    build = world.run("updateBuildStatus")
    assert (build.status, build.image_id) == ("succeeded", "app:17")
    assert build.duration is not None


@of_row("getProjectBuilds")
def _(world: World) -> None:
    project = world.project()
    world.see.builds.create(project)
    failed = world.see.builds.fail(world.see.builds.create(project), error="no builder")
    assert world.run("getProjectBuilds") == [failed]


@of_row("createPreview")
def _(world: World) -> None:
    world.project()
    preview = world.run("createPreview")
    assert (preview.status, preview.container_port) == ("creating", 8000)
    assert world.see.previews.by_host("app.example.com") == preview


@of_row("updatePreviewStatus")
def _(world: World) -> None:
    world.knows(preview=world.see.previews.create(world.project(), host="app.example.com"))
    preview = world.run("updatePreviewStatus")
    assert (preview.status, preview.health) == ("running", "healthy")


@of_row("getActivePreview")
def _(world: World) -> None:
    preview = world.see.previews.create(world.project(), host="app.example.com")
    assert world.run("getActivePreview") is None
    running = world.see.previews.set_status(preview, "running")
    assert world.run("getActivePreview") == running


@of_row("stopPreview")
def _(world: World) -> None:
    project = world.project()
    world.knows(preview=world.see.previews.create(project, host="app.example.com"))
    assert world.run("stopPreview").status == "stopped"
    assert world.see.previews.create(project, host="app.example.com").status == "creating"


@of_row("createMemorySnapshot")
def _(world: World) -> None:
    project = world.project()
    version = world.run("createMemorySnapshot")
    assert (version.path, version.size, version.kind) == ("CLAUDE.md", 8, "claude_md")
    assert world.see.memory.read(project, "CLAUDE.md") == b"# Rules\n"


@of_row("getProjectMemorySnapshots")
def _(world: World) -> None:
    project = world.project()
    made = [world.see.memory.snapshot(project, "CLAUDE.md", text) for text in (b"one\n", b"two\n")]
    world.see.memory.snapshot(project, "notes.md", b"else\n")
    assert world.run("getProjectMemorySnapshots") == made[::-1]


@of_row("logUsage")
def _(world: World) -> None:
    project = world.project()
    world.run("logUsage")
    (total,) = world.see.usage.totals(world.names["user"], by="project")
    assert (total.kind, total.amount, total.cost) == ("container_minutes", Decimal("12.5"), Decimal("0.03"))
    assert total.project == str(project.id)


@of_row("logEvent")
def _(world: World) -> None:
    project = world.project()
    world.run("logEvent")
    event = world.see.events.recent(world.names["user"], limit=1)[0]
    assert (event.type, event.project_id) == ("deploy.done", project.id)
    assert (event.ip, event.user_agent) == ("203.0.113.9", "curl/8")


@of_row("getRecentEvents")
def _(world: World) -> None:
    world.project()
    assert [event.type for event in world.run("getRecentEvents")] == ["project.created", "user.created"]


@of_row("db.query")
def _(world: World) -> None:
    world.project()
    assert world.run("db.query") == [("app",)]


@of_row("db.transaction")
def _(world: World) -> None:
    user = world.user()
    world.run("db.transaction")
    (project,) = world.see.projects.list(user)
    assert [build.status for build in world.see.builds.list(project)] == ["queued"]
    # A project with this folder exists now, so a second run is rolled back.
    with pytest.raises(atlas_sdk.AlreadyExists):
        world.run("db.transaction")
    assert world.see.builds.stats(project).total == 1


@of_row("db.healthCheck")
def _(world: World) -> None:
    health = world.run("db.healthCheck")
    assert health.ok
    assert health.latency_ms > 0


@of_row("user_usage_summary")
def _(world: World) -> None:
    project = world.project()
    world.see.builds.create(project)
    summary = world.run("user_usage_summary")
    assert (summary.email, summary.project_count, summary.builds_24h) == ("ada@example.com", 1, 1)


@of_row("project_health")
def _(world: World) -> None:
    project = world.project()
    world.see.builds.fail(world.see.builds.create(project), error="no builder")
    health = world.run("project_health")
    assert (health.builds_failed, health.failure_rate, health.last_build_status) == (1, 1, "failed")


@of_row("schema_version")
def _(world: World) -> None:
    applied = world.run("schema_version")
    assert applied == world.see.schema.status()
    assert [migration.version for migration in applied] == list(range(1, len(applied) + 1))


@of_row("init-db.sh")
def _(world: World) -> None:
    program, *arguments = shlex.split(ROWS["init-db.sh"].example)
    with psycopg.connect(world.dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for _ in range(2):
            environment = {**_environment(), "ATLAS_DATABASE_URL": world.dsn}
            command = [Path(sys.executable).with_name(program), *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
            found = connection.execute("SELECT count(*) FROM schema_version").fetchone()
            assert found == (len(world.see.schema.status()),)
    assert world.user().plan == "free"


@of_row("Monthly Quota Reset (Cron Job)")
def _(world: World) -> None:
    world.user()
    with psycopg.connect(world.dsn) as connection:
        connection.execute(
            "UPDATE user_quotas SET period_anchor = period_anchor - interval '40 days',"
            " period_start = period_start - interval '40 days', period_end = period_end - interval '40 days'"
        )
    reports = {report.name: report for report in world.run("Monthly Quota Reset (Cron Job)")}
    assert reports["periods"].removed == 1
    assert all(report.complete for report in reports.values())


@of_row("Cleanup Old Snapshots")
def _(world: World) -> None:
    project = world.project()
    for text in (b"one\n", b"two\n"):
        world.see.memory.snapshot(project, "notes.md", text, kind="auto")
    with psycopg.connect(world.dsn) as connection:
        connection.execute("UPDATE memory_snapshots SET created_at = created_at - interval '31 days'")
    assert world.run("Cleanup Old Snapshots").removed == 1
    assert world.see.memory.read(project, "notes.md") == b"two\n"


@of_row("Cleanup Stopped Previews")
def _(world: World) -> None:
    world.see.previews.stop(world.see.previews.create(world.project(), host="app.example.com"))
    assert world.run("Cleanup Stopped Previews").removed == 0
    with psycopg.connect(world.dsn) as connection:
        connection.execute("UPDATE previews SET stopped_at = stopped_at - interval '8 days'")
    assert world.run("Cleanup Stopped Previews").removed == 1
