"""docs/operations.md: each example of its first table runs on both faces, and its tables are complete and true."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import reference
from guard_adapter import Both
from patience import PATIENCE_S

import atlas_sdk
from atlas_sdk import Atlas, Project, User, aio
from atlas_sdk._namespaces import Namespace

ROWS = {row.name: row for row in reference.original_names()}
CHECKS: dict[str, Callable[[World], None]] = {}
READY_HASH = "$2b$12$LQv3c1yqBWVHxkd0LHAkCOYz6TtxMQJqhN8/LewdBPj/VcSAg/9qm"


class Awaited(ast.NodeTransformer):
    """Rewrites blocking code for the asyncio client, as a person would: by `await` and `async with`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        names = ast.unparse(node.func).split(".")
        is_operation = names[0] in {"atlas", "tx"} and (len(names) == 3 or names == ["atlas", "health"])
        return ast.Await(value=node) if is_operation else node

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.items[0].context_expr).startswith("atlas."):
            return ast.copy_location(ast.AsyncWith(items=node.items, body=node.body), node)
        return node


class World:
    """A client of either face that runs examples, and a blocking one beside it that looks at what they did."""

    def __init__(self, both: Both, dsn: str, see: Atlas) -> None:
        self.both, self.dsn, self.see = both, dsn, see
        #: What the examples know by name.
        self.names: dict[str, Any] = {"atlas": both.client, "psycopg": psycopg, "ready_hash": READY_HASH}

    def user(self) -> User:
        user: User = self.see.users.create("ada@example.com")
        self.names["user"] = user
        return user

    def project(self) -> Project:
        project = self.see.projects.create(self.user(), path="/srv/app")
        self.names["project"] = project
        return project

    def knows(self, **names: Any) -> None:
        self.names |= names

    def run(self, name: str) -> Any:
        """Run the example of a row; return what it assigned."""
        code = ast.parse(ROWS[name].example).body
        if self.both.kind == "asyncio":
            code = [Awaited().visit(statement) for statement in code]
        kind = "async def" if self.both.kind == "asyncio" else "def"
        body = textwrap.indent("\n".join(map(ast.unparse, code)), "    ")
        names = ", ".join(self.names)
        source = f"{kind} example({names}):\n{body}\n    return locals()"
        made: dict[str, Any] = {}
        # The document's own words.
        exec(source, made)
        before = dict(self.names)
        after = self.both.do(made["example"](**before))
        new = [value for key, value in after.items() if before.get(key) is not value]
        return new[-1] if new else None


@pytest.fixture(params=["blocking", "asyncio"])
def world(request: pytest.FixtureRequest, dsn: str) -> Iterator[World]:
    both = Both(request.param, dsn)
    with Atlas.open(dsn) as see:
        yield World(both, dsn, see)
    both.close()


def of_row(name: str) -> Callable[[Callable[[World], None]], None]:
    def register(check: Callable[[World], None]) -> None:
        assert name not in CHECKS
        CHECKS[name] = check

    return register


# One check a row.


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
    # Its folder is taken by now: nothing of a second one happens.
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


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ATLAS_", "PG", "DB_"))}


@pytest.mark.parametrize("name", ROWS)
def test_an_example_does_what_the_original_did(world: World, name: str) -> None:
    assert name in CHECKS, "a row of the document without a test"
    CHECKS[name](world)


# The tables.


def test_every_name_of_the_original_is_in_the_table() -> None:
    original = """createUser findUserByEmail findUserById getUserQuotas updateTokenUsage checkUserQuota
        resetMonthlyQuotas createProject getProjectById getUserProjects updateProjectMemory
        createBuild updateBuildStatus getProjectBuilds
        createPreview updatePreviewStatus getActivePreview stopPreview createMemorySnapshot getProjectMemorySnapshots
        logUsage logEvent getRecentEvents db.query db.transaction db.healthCheck init-db.sh"""
    assert set(original.split()) <= set(ROWS)
    assert set(ROWS) == set(CHECKS), "the table and the tests differ"
    assert len(ROWS) == len(reference.original_names()), "a name stands there twice"


def test_the_table_names_what_its_examples_call() -> None:
    found = reference.operations()
    for row in ROWS.values():
        called = set(re.findall(r"(?:atlas|tx)\.(\w+\.\w+)\(", row.example))
        named = re.findall(r"`?(\w+\.\w+)`?", row.ours)
        assert set(named) <= set(found), row
        assert not named or set(named) <= called, row


def test_every_operation_is_in_the_reference_as_it_is() -> None:
    text = reference.DOCUMENT.read_text("utf-8")
    assert text == reference.written(text), "run: python tests/reference.py"


def test_every_topic_of_a_client_is_in_the_reference(atlas: Atlas) -> None:
    topics = {name: type(value) for name, value in vars(atlas).items() if isinstance(value, Namespace)}
    assert topics == reference.TOPICS


def test_every_operation_is_on_record_silent_or_a_reading() -> None:
    kinds = [set(reference.EVENTS), set(reference.SILENT), reference.READS]
    assert sum(map(len, kinds)) == len(set.union(*kinds)), "one is in two of them"
    assert set.union(*kinds) == set(reference.operations()), "say in tests/reference.py what a new one writes"


def test_both_faces_have_the_same_signatures() -> None:
    for topic, face in reference.TOPICS.items():
        awaited = getattr(aio, f"Async{face.__name__}")
        for name, operation in reference.operations().items():
            if name.startswith(f"{topic}."):
                other = getattr(awaited, name.partition(".")[2])
                assert inspect.signature(other).parameters == inspect.signature(operation).parameters, name
                assert inspect.getdoc(other), name


def _written_in_python() -> tuple[set[str], set[str]]:
    """Return the event types that the source writes, and the beginnings of those that it puts together."""
    whole, begun = set(), set()
    package = Path(atlas_sdk.__file__).parent
    for file in [*package.rglob("*.py"), *(package.parent / "watcher").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("record", "record_from")):
                arguments = [*node.args]
            elif isinstance(node, ast.Call):
                arguments = [keyword.value for keyword in node.keywords if keyword.arg == "event"]
            else:
                continue
            for part in arguments:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    whole.add(part.value)
                elif isinstance(part, ast.JoinedStr) and isinstance(part.values[0], ast.Constant):
                    begun.add(str(part.values[0].value))
    return {name for name in whole if re.fullmatch(r"[a-z]+\.[a-z_]+", name)}, begun


def test_every_event_type_is_documented_and_written() -> None:
    documented = reference.event_types()
    assert len(documented) == len(set(documented))
    whole, begun = _written_in_python()
    sql = "".join(file.read_text("utf-8") for file in Path(reference.DOCUMENT).parents[1].glob("sql/**/*.sql"))
    for statement in re.findall(r"INSERT INTO events.*?;", sql, re.DOTALL):
        whole |= set(re.findall(r"'([a-z]+\.[a-z_]+)'", statement))
    assert {"user.created", "preview.created", "quota.threshold"} <= whole
    assert begun == {"preview.", "memory.", "maintenance."}
    put_together = {name for name in documented if name.startswith(tuple(begun)) and name not in whole}
    assert set(documented) == whole | put_together
    told = {kind for kinds in reference.EVENTS.values() for kind in kinds if "." in kind}
    # The database writes this one by itself, when a month fills.
    assert set(documented) == told | {"quota.threshold"}
