"""`atlasctl db doctor` on databases that are really broken: it finds each fault, and its advice mends the fault."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from problems import follow, problems
from servers import PASSWORD, PrivateServer

from atlas_sdk._sql import migrations

LATEST = len(migrations())


@pytest.mark.parametrize("login", [("postgres", None), ("shop", PASSWORD)], ids=["superuser", "application"])
def test_a_healthy_database_has_no_problem(doctor: Any, login: tuple[str, str | None]) -> None:
    ran = doctor("--json", user=login[0], password=login[1])
    assert (ran.code, ran.record["ok"], problems(ran)) == (0, True, {})
    assert {one["name"] for one in ran.record["findings"]} == {
        *("connection", "clock", "settings", "connections", "schema", "grants", "objects", "indexes", "isolation"),
        *("space", "vacuum", "database"),
    }
    shown = doctor(user=login[0], password=login[1])
    marks = [line.split()[:2] for line in shown.out.splitlines() if not line.startswith(" ")]
    # The doctor cannot see the disk of another machine, and says so.
    assert [name for mark, name in marks if mark != "✓"] == ["space"]
    assert "? space" in shown.out
    assert "df -h /" in shown.out or "df -h DATA_DIRECTORY" in shown.out
    assert "all is well" in shown.err


def test_of_the_embedded_database_it_finds_what_the_tests_do_to_it(home: Any, cli: Any) -> None:
    """The tests switch fsync off. The doctor finds this problem and no other."""
    assert cli("db", "init").code == 0
    ran = cli("db", "doctor", "--json")
    assert (ran.code, set(problems(ran))) == (1, {"settings"}), ran.out
    assert "fsync is off" in str(problems(ran))


BREAKAGES = {
    "no schema": ("schema", "DROP SCHEMA public CASCADE; CREATE SCHEMA public"),
    "index missing": ("indexes", "DROP INDEX idx_builds_page"),
    "unique index missing": ("indexes", "DROP INDEX idx_projects_path"),
    "index invalid": (
        "indexes",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_users_email'::regclass",
    ),
    "row security off": ("isolation", "ALTER TABLE projects DISABLE ROW LEVEL SECURITY"),
    "policy missing": ("isolation", "DROP POLICY tenant ON builds"),
    "trigger disabled": ("objects", "ALTER TABLE users DISABLE TRIGGER create_quota_on_signup"),
    "trigger missing": ("objects", "DROP TRIGGER builds_refuse_illegal_transition ON builds"),
    "grant missing": ("grants", "REVOKE INSERT ON projects FROM atlas_app"),
    "column grant missing": (
        "grants",
        "REVOKE SELECT ON users FROM atlas_app",
    ),
    "column granted": ("grants", "GRANT SELECT (password_hash) ON users TO atlas_app"),
    "whole table granted": ("grants", "GRANT SELECT ON users TO atlas_app"),
    "statement granted": ("grants", "GRANT UPDATE ON user_quotas TO atlas_app"),
    "granted to everybody": ("grants", "GRANT SELECT ON maintenance_runs TO PUBLIC; GRANT TRUNCATE ON plans TO PUBLIC"),
    "granted another way": (
        "grants",
        "CREATE ROLE helper; GRANT helper TO atlas_app; GRANT DELETE ON events TO helper",
    ),
    "temporary tables": ("database", "GRANT TEMPORARY ON DATABASE atlas TO PUBLIC"),
    "temporary tables of the role": ("database", "GRANT TEMPORARY ON DATABASE atlas TO atlas_app"),
    "schemas": ("database", "GRANT CREATE ON DATABASE atlas TO PUBLIC"),
    "no search_path": ("database", "ALTER DATABASE atlas RESET search_path"),
    "search_path that begins with temporary tables": (
        "database",
        'ALTER DATABASE atlas SET search_path = pg_temp, "$user", public',
    ),
    "search_path of a role": ("database", "ALTER ROLE atlas_owner IN DATABASE atlas SET search_path = public"),
    "large objects": ("database", "GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC"),
    "advisory locks": ("database", "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO atlas_app"),
    "procedure taken away": ("grants", "REVOKE EXECUTE ON PROCEDURE quota_call_hit FROM PUBLIC"),
    "function taken away": (
        "grants",
        "REVOKE EXECUTE ON FUNCTION quota_hit(uuid, integer) FROM PUBLIC",
    ),
    "schema open": ("grants", "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    "policy that lets through": ("isolation", "CREATE POLICY evil ON projects FOR SELECT USING (true)"),
    "policy changed": ("isolation", "ALTER POLICY tenant ON builds USING (true)"),
    "policy for another command": (
        "isolation",
        "DROP POLICY tenant_reads ON claims; CREATE POLICY tenant_reads ON claims USING (user_id IS NOT NULL)",
    ),
    "role above policies": ("isolation", "ALTER ROLE atlas_app BYPASSRLS"),
    "role a superuser": ("isolation", "ALTER ROLE atlas_app SUPERUSER BYPASSRLS"),
    "role may be the owner": ("isolation", "REVOKE atlas_app FROM atlas_owner; GRANT atlas_owner TO atlas_app"),
    "role reads everything": ("isolation", "GRANT pg_read_all_data TO atlas_app"),
    "function without its owner's rights": (
        "isolation",
        "ALTER FUNCTION quota_settle(uuid, uuid, bigint, numeric, integer, jsonb) SECURITY INVOKER",
    ),
    "function with its owner's rights": ("isolation", "ALTER FUNCTION memory_lock_limit(uuid) SECURITY DEFINER"),
    "function with the caller's path": ("isolation", "ALTER FUNCTION quota_hit(uuid, integer) RESET search_path"),
    "function with another path": (
        "isolation",
        "ALTER FUNCTION quota_hit(uuid, integer) SET search_path = pg_temp, public",
    ),
    "view with its owner's rights": ("isolation", "ALTER VIEW project_health RESET (security_invoker)"),
    "function missing": (
        "objects",
        "DROP FUNCTION quota_settle(uuid, uuid, bigint, numeric, integer, jsonb); DROP FUNCTION stamp_build CASCADE",
    ),
    "all grants missing": ("grants", "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM atlas_app"),
    "schema closed": ("grants", "REVOKE ALL ON SCHEMA public FROM PUBLIC, atlas_app"),
    "commits not durable": ("settings", "ALTER DATABASE atlas SET synchronous_commit = off"),
    "autovacuum off for a table": ("vacuum", "ALTER TABLE events SET (autovacuum_enabled = false)"),
    "one connection allowed": ("connections", "ALTER DATABASE atlas CONNECTION LIMIT 1"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_broken_is_found_and_mended_by_the_advice(
    doctor: Any, cli: Any, server: PrivateServer, name: str
) -> None:
    finding, command = BREAKAGES[name]
    for part in command.split("; "):
        server.ask(part, database="atlas")
    ran = doctor("--json")
    assert ran.code == 1
    assert problems(ran).keys() == {finding}, ran.out
    assert problems(ran)[finding]["fix"]
    follow(cli, server, problems(ran)[finding]["fix"])
    mended = doctor("--json")
    assert (mended.code, problems(mended)) == (0, {})


def test_a_function_that_is_made_again_is_whole(doctor: Any, cli: Any, server: PrivateServer) -> None:
    """The function has the changes of later migrations, its triggers and its grants."""
    state = (
        "SELECT oid::regprocedure::text, prosecdef, proconfig, proacl::text, pg_get_userbyid(proowner), prosrc "
        "FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
    )
    triggers = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    before = [server.ask(state, database="atlas"), server.ask(triggers, database="atlas")]
    for name in ("quota_hit", "quota_settle", "stamp_build", "grant_atlas_roles", "check_tenant"):
        server.ask(f"DROP FUNCTION {name} CASCADE", database="atlas")
    server.ask("DROP VIEW project_health", database="atlas")
    found = problems(doctor("--json"))["objects"]
    assert "function check_tenant, function grant_atlas_roles" in found["detail"]
    assert found["fix"] == [f"atlasctl db init --dsn {server.url('atlas')}"]
    planned = cli("db", "init", "--dry-run", "--dsn", server.url("atlas"))
    assert "+ made again" in planned.err
    follow(cli, server, found["fix"])
    assert [server.ask(state, database="atlas"), server.ask(triggers, database="atlas")] == before
    assert doctor().code == 0


def test_policies_and_grants_of_others_are_theirs(doctor: Any, server: PrivateServer) -> None:
    for command in (
        "CREATE ROLE guest",
        "GRANT SELECT ON events TO guest",
        "CREATE POLICY report ON events FOR SELECT TO guest USING (true)",
        "CREATE POLICY narrower ON events AS RESTRICTIVE USING (type <> 'secret')",
        "CREATE TABLE shop_orders (id int)",
        "GRANT ALL ON shop_orders TO atlas_app, PUBLIC",
        "CREATE POLICY all_of_it ON shop_orders USING (true)",
    ):
        server.ask(command, database="atlas")
    assert problems(doctor("--json")) == {}


def test_what_goes_beyond_a_tenant_is_named(doctor: Any, server: PrivateServer) -> None:
    server.ask("GRANT UPDATE ON user_quotas TO atlas_app", database="atlas")
    server.ask("GRANT SELECT (password_hash) ON users TO atlas_app", database="atlas")
    found = problems(doctor("--json", user="shop", password=PASSWORD))["grants"]
    assert found["detail"].endswith(
        "may do more than a tenant may: UPDATE on user_quotas, SELECT (password_hash) on users"
    )
    assert found["fix"] == ["# as the owner of the tables:", "SELECT grant_atlas_roles();"]


# The schema's version


def test_older_newer_and_foreign_schemas_are_told_apart(doctor: Any, server: PrivateServer) -> None:
    server.ask("UPDATE schema_version SET checksum = 'x' WHERE version IN (2, 3)", database="atlas")
    found = problems(doctor("--json"))["schema"]
    assert re.search(r"0002_projects, 0003_lifecycles; a changed or unreleased version", found["detail"])
    server.ask("DELETE FROM schema_version WHERE version > 1", database="atlas")
    found = problems(doctor("--json"))["schema"]
    assert found["detail"] == f"version 1 is older than this AtlasEngine, which needs {LATEST}"
    there = f"--dsn {server.url('atlas')}"
    assert found["fix"] == [f"atlasctl db migrate --plan {there}", f"atlasctl db migrate {there}"]


def test_advice_without_a_dsn_needs_none(cli: Any, server: PrivateServer, monkeypatch: Any) -> None:
    server.ask("DROP VIEW project_health", database="atlas")
    monkeypatch.setenv("ATLAS_DATABASE_URL", server.url("atlas"))
    assert problems(cli("db", "doctor", "--json"))["objects"]["fix"] == ["atlasctl db init"]


def test_advice_leaves_the_password_out_and_says_so(cli: Any, server: PrivateServer) -> None:
    server.ask("DELETE FROM schema_version WHERE version > 1", database="atlas")
    ran = cli("db", "doctor", "--dsn", server.url("atlas", password=PASSWORD) + "?connect_timeout=5")
    assert PASSWORD not in ran.out + ran.err
    assert "leave the password out" in ran.err
    (line,) = [line for line in ran.out.splitlines() if line.strip().startswith("atlasctl db migrate --dsn")]
    assert cli(*shlex.split(line)[1:], "--plan", "--json").record["schema_version"] == 1


def test_a_newer_schema_wants_a_newer_package(doctor: Any, server: PrivateServer) -> None:
    server.ask("INSERT INTO schema_version (version, name, checksum) VALUES (999, 'future', 'x')", database="atlas")
    found = problems(doctor("--json"))["schema"]
    assert (found["detail"].partition(",")[0], found["fix"]) == (
        f"version {LATEST + 1} is newer than this AtlasEngine",
        ["pip install --upgrade atlasengine"],
    )


# Rights


def test_a_login_without_grants_is_told_which(doctor: Any, cli: Any, server: PrivateServer) -> None:
    server.add_login("guest")
    ran = doctor("--json", user="guest", password=PASSWORD)
    assert ran.code == 1
    found = problems(ran)["grants"]
    assert found["detail"].startswith("permission denied: guest")
    assert found["fix"] == [
        "# for an application, which acts for tenants:",
        "GRANT atlas_app TO guest;",
        "# or for migrations and maintenance: GRANT atlas_owner TO guest;",
    ]
    follow(cli, server, found["fix"])
    assert doctor(user="guest", password=PASSWORD).code == 0


def test_missing_roles_are_a_problem_of_isolation(doctor: Any, server: PrivateServer) -> None:
    server.ask("ALTER ROLE atlas_app RENAME TO atlas_away")
    try:
        ran = doctor("--json")
        assert problems(ran)["grants"]["fix"] == [f"atlasctl db init --dsn {server.url('atlas')}"]
        assert "as_user" in problems(ran)["grants"]["detail"]
    finally:
        server.ask("ALTER ROLE atlas_away RENAME TO atlas_app")
