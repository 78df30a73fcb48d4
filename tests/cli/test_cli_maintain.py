"""`atlasctl db maintain`, and the examples of docs/maintenance.md."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import programs
import psycopg
import pytest
from patience import PATIENCE_S
from test_cli_terminal import Terminal

from atlas_sdk.cli.db import db
from atlas_sdk.maintenance import MAINTENANCE_JOBS

GUIDE = Path(__file__).parents[2] / "docs/maintenance.md"
BACKUPS = GUIDE.with_name("backups.md")
#: The path of the program in the guides.
PROGRAM = "/opt/atlasengine/bin/atlasctl"


@pytest.fixture
def admin(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def ada(dsn, atlas, admin, monkeypatch):
    """Return a user with rows of every kind that maintenance removes."""
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    user = atlas.users.create("ada@example.com")
    admin.execute(
        """INSERT INTO sessions (user_id, token_hash, created_at, expires_at)
           SELECT %s, sha256(n::text::bytea), now() - interval '9 days', now() - interval '1 day'
           FROM generate_series(1, 12) AS n""",
        [user.id],
    )
    admin.execute(
        "INSERT INTO events (user_id, type, created_at) VALUES (%s, 'tick', now() - interval '400 days')", [user.id]
    )
    project = atlas.projects.create(user, path="/srv/app")
    for n in range(3):
        atlas.memory.snapshot(project, "CLAUDE.md", os.urandom(2000), kind="auto")
        admin.execute("UPDATE memory_snapshots SET created_at = created_at - interval '20 days' WHERE seq <= %s", [n])
    return user


def rows(admin, table):
    return admin.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_it_says_what_each_job_did(ada, cli, admin):
    ran = cli("db", "maintain")
    assert ran.code == 0
    lines = [re.split(r"  +", line) for line in ran.out.splitlines()]
    assert [line[0] for line in lines] == list(MAINTENANCE_JOBS)
    done = {line[0]: line[1:3] for line in lines}
    assert done["sessions"] == ["12 expired sessions", "of 12"]
    assert done["snapshots"] == ["1 old version", "of 1"]
    assert done["contents"] == ["1 unused content, 2.0 KiB", "of 3"]
    assert done["periods"] == ["0 ended months", "of 0"]
    assert ran.err == ""
    assert rows(admin, "sessions") == 0
    assert cli("db", "maintain").code == 0


def test_a_long_run_says_how_far_it_is(ada, cli, monkeypatch):
    monkeypatch.setattr("atlas_sdk.cli.progress._QUIET_S", 0.0)
    ran = cli("db", "maintain", "--job", "sessions", "--batch", "5")
    assert {line.partition(":")[0] for line in ran.err.splitlines()} == {"job 1 of 1, sessions"}
    assert "job 1 of 1, sessions: 10 of 10" in ran.err.splitlines()


def test_json_is_one_object_and_nothing_beside_it(ada, cli, admin):
    ran = cli("db", "maintain", "--dry-run", "--json")
    assert (ran.code, ran.err) == (0, "")
    record = ran.record
    assert (record["ok"], record["dry_run"]) == (True, True)
    assert {job["name"]: job["removed"] for job in record["jobs"] if job["removed"]} == {
        "sessions": 12, "snapshots": 1, "events": 1
    }  # fmt: skip
    assert set(record["jobs"][0]) == {
        *("name", "examined", "removed", "skipped", "freed_bytes", "took_s", "complete", "dry_run", "problem")
    }
    assert rows(admin, "sessions") == 12


def test_jobs_and_ages_can_be_given(ada, cli, admin):
    jobs = ("--job", "events", "--job", "snapshots")
    ran = cli("db", "maintain", *jobs, "--keep-auto", "10d", "--keep-events", "forever", "--json")
    assert [(job["name"], job["removed"]) for job in ran.record["jobs"]] == [("snapshots", 2)]
    assert cli("db", "maintain", "--job", "events", "--keep-events", "57w", "--json").record["jobs"][0]["removed"] == 1


def test_ages_come_from_the_settings_unless_given(ada, cli, monkeypatch):
    monkeypatch.setenv("ATLAS_KEEP_AUTO_DAYS", "90")
    asked = ("db", "maintain", "--dry-run", "--json", "--job", "snapshots")
    assert cli(*asked).record["jobs"][0]["removed"] == 0
    assert cli(*asked, "--keep-auto", "30d").record["jobs"][0]["removed"] == 1


@pytest.mark.parametrize(
    "arguments", [["--job", "sweeping"], ["--keep-auto", "soon"], ["--keep-events", "-1d"], ["--batch", "0"]]
)
def test_wrong_arguments_exit_with_2(cli, arguments):
    assert cli("db", "maintain", *arguments).code == 2


def test_a_job_that_fails_exits_with_1_after_the_others(ada, cli, admin):
    admin.execute(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$"
    )
    admin.execute("CREATE TRIGGER broken BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION broken()")
    ran = cli("db", "maintain")
    assert ran.code == 1
    assert "warning: sessions: PostgreSQL says: broken" in ran.err
    assert "0 expired sessions; failed" in ran.out
    assert "1 old version" in ran.out
    assert cli("db", "maintain", "--json").record["ok"] is False


@pytest.mark.parametrize("arguments", [["--dry-run"], [], ["--job", "sessions"]], ids=" ".join)
def test_a_login_that_does_not_see_all_rows_is_refused(ada, cli, admin, dsn, arguments):
    """Without the refusal, maintenance would report that there is nothing to do."""
    ran = cli("db", "maintain", "--dsn", f"{dsn}&options=-crole%3Datlas_app", *arguments)
    assert ran.code == 1
    assert "this login does not see all rows, so it cannot do maintenance: run it as the owner of the tables" in (
        ran.sentence
    )
    assert rows(admin, "sessions") == 12


def test_a_database_that_is_away_exits_with_5(cli, tmp_path):
    assert cli("db", "maintain", "--dsn", f"postgresql:///x?host={tmp_path}").code == 5


def test_a_terminal_shows_how_far_it_is(ada, atlasctl, admin):
    terminal = Terminal([atlasctl, "db", "maintain", "--batch", "5"], LINES="40", COLUMNS="140")
    text = terminal.read_until()
    assert terminal.end() == 0
    assert "sessions: " in text
    assert f"job {len(MAINTENANCE_JOBS)} of {len(MAINTENANCE_JOBS)}" in text
    assert "12 expired sessions" in text
    assert rows(admin, "sessions") == 0


def test_an_interrupted_run_is_on_record_as_stopped(ada, atlas, admin, atlasctl):
    with psycopg.connect(os.environ["ATLAS_DATABASE_URL"]) as other:
        # The first job of maintenance waits for this lock.
        other.execute("LOCK TABLE user_quotas IN ACCESS EXCLUSIVE MODE")
        process = programs.Popen([atlasctl, "db", "maintain"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while admin.execute(waiting).fetchone() == (0,):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert [run.outcome for run in atlas.maintenance.runs()] == ["stopped"]


# The guide.


def blocks(language, guide=GUIDE):
    return re.findall(rf"```{language}\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize(("guide", "commands"), [(GUIDE, 6), (BACKUPS, 5)], ids=["maintenance", "backups"])
def test_every_command_of_the_guide_is_a_real_one(guide, commands):
    text = "\n".join(block for language in ("console", "cron", "ini") for block in blocks(language, guide))
    text = re.sub(r"\$\(date .+?\)", "Mon", text)
    lines = re.findall(r"(?:^\$ |\s|/)(atlasctl db (?:(?! 2>)[^>\n|'&])+)", text, re.MULTILINE)
    assert len(lines) == commands
    for line in lines:
        _, group, name, *arguments = shlex.split(line)
        assert group == "db"
        db.commands[name].make_context(line, arguments).close()


@pytest.mark.parametrize("guide", [GUIDE, BACKUPS], ids=["maintenance", "backups"])
def test_what_a_timer_runs_has_a_path_an_account_and_a_login_that_exists(guide):
    """The PATH of cron and systemd is short, and the role that owns the tables cannot log in."""
    timed = [*blocks("cron", guide), *(block for block in blocks("ini", guide) if "ExecStart" in block)]
    assert len(timed) == 2
    for block in timed:
        assert re.findall(r"postgresql://(\w+)@", block) == ["atlas_ops"]
        assert block.count("atlasctl") == block.count(PROGRAM)
        assert " atlas " in block or "User=atlas" in block
        assert ">>" not in block
    assert "CREATE ROLE atlas_ops LOGIN IN ROLE atlas_owner;" in blocks("sql")[0]


def test_the_settings_of_the_guide_are_known(tmp_path, monkeypatch):
    from atlas_sdk.config import Settings, load_settings, user_file

    (block,) = blocks("toml")
    user_file().parent.mkdir(parents=True)
    user_file().write_text(block)
    assert load_settings() == Settings()


def test_the_statements_of_the_guide_run(ada, atlas, admin):
    block = blocks("sql")[-1]
    for statement in block.split(";")[:2]:
        admin.execute(statement)
    assert rows(admin, "memory_snapshots") == 2
    assert atlas.memory.verify(ada).ok


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd"
)
def test_systemd_accepts_the_units_of_the_guide(tmp_path):
    files = []
    for block in blocks("ini"):
        name = re.match(r"# /etc/systemd/system/(\S+)", block)
        # The program and the account of this machine.
        text = block.replace(PROGRAM, sys.executable).replace("User=atlas", "User=root")
        files.append(tmp_path / name[1])
        files[-1].write_text(text)
    assert [file.suffix for file in files] == [".service", ".timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files],
        capture_output=True,
        text=True,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "atlas-maintain" in line]
