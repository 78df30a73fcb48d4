from datetime import datetime, timedelta
from decimal import Decimal

import psycopg
import pytest


@pytest.fixture
def ada(dsn, atlas, monkeypatch):
    """Return a user in a database of her own, for whom the commands act."""
    user = atlas.users.create("ada@example.com")
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    monkeypatch.setenv("ATLAS_USER", user.email)
    return user


@pytest.fixture
def change(dsn):
    """Return a function that changes a user's row by SQL."""

    def write(user, text):
        with psycopg.connect(dsn) as connection:
            connection.execute(f"UPDATE user_quotas SET {text} WHERE user_id = %s", [user.id])

    return write


def test_show_has_every_dimension_in_aligned_lines(ada, atlas, cli):
    atlas.quotas.settle(ada, atlas.quotas.reserve(ada, tokens=900, cost="1.25", builds=1).id)
    atlas.quotas.reserve(ada, tokens=4096, slots=1, holder="container-7")
    ran = cli("quota", "show")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "ada@example.com  plan free"
    until = f"{atlas.quotas.usage(ada).period_end.astimezone():%Y-%m-%d %H:%M}"
    assert [line.rstrip() for line in lines[1:7]] == [
        f"tokens      900    + 4,096 held  of 1,000,000  0 %   until {until}",
        f"cost        $1.25                of $10.00     12 %  until {until}",
        "containers  1                    of 2          50 %  at the same time",
        "requests    2                    of 100        2 %   in the last hour",
        "builds      1                    of 10         10 %  today, UTC",
        "memory      0 B                  of 100.0 MiB  0 %   soft limit",
    ]
    assert lines[7].startswith("running  container-7  1 container  4,096 tokens")
    assert lines[8].startswith(
        "forecast  at the present rate, 21,600 tokens and $30.00 a day: the month's dollars run out"
    )
    assert "\x1b" not in ran.out


def test_show_of_an_unlimited_user_who_did_nothing(ada, atlas, cli):
    names = ("tokens", "cost", "containers", "requests_per_hour", "builds_per_day", "memory_bytes")
    atlas.quotas.set_limits(ada, **dict.fromkeys(names))
    lines = cli("quota", "show").out.splitlines()
    assert lines[0] == "ada@example.com  plan free, by hand: builds, containers, cost, memory, requests, tokens"
    assert [line.split()[1] for line in lines[1:4]] == ["0", "$0.00", "0"]
    assert all("unlimited" in line for line in lines[1:7])
    assert lines[7:] == ["forecast  nothing was used of late: the month's limits last"]


def test_show_in_json_has_stable_keys_and_exact_money(ada, atlas, cli):
    atlas.quotas.grant(ada, tokens=5, cost="0.5", expires_in=timedelta(days=3), reason="sorry")
    held = atlas.quotas.reserve(ada, tokens=10, cost="0.000000001", holder="job")
    found = cli("quota", "show", "--json").record
    assert list(found) == [
        "user",
        "period",
        "tokens",
        "cost",
        "containers",
        "requests_per_hour",
        "builds_per_day",
        "overridden",
        "waiting",
        "memory",
        "grants",
        "holds",
        "forecast",
        "exceeded",
        "dimension",
        "reason",
    ]
    assert found["user"] == {"id": str(ada.id), "email": "ada@example.com", "plan": "free"}
    assert found["tokens"] == {"used": 0, "held": 10, "limit": 1_000_005, "granted": 5}
    assert found["cost"] == {"used": "0", "held": "0.000000001", "limit": "10.5", "granted": "0.5"}
    assert found["containers"] == {"held": 0, "limit": 2}
    assert found["requests_per_hour"] == {"used": 1, "held": 0, "limit": 100}
    assert found["memory"] == {"bytes": 0, "limit": 100 * 2**20, "hard": False, "exceeded": False}
    assert [(one["tokens"], one["cost"], one["reason"]) for one in found["grants"]] == [(5, "0.5", "sorry")]
    assert [(one["id"], one["holder"]) for one in found["holds"]] == [(str(held.id), "job")]
    assert found["forecast"]["tokens_run_out_at"] is None
    assert (found["exceeded"], found["dimension"], found["reason"]) == (False, None, None)


def test_show_counts_the_calls_that_wait(ada, cli, dsn):
    assert cli("quota", "show", "--json").record["waiting"] == 0
    with psycopg.connect(dsn) as connection:
        row = (ada.id, timedelta(minutes=1))
        connection.execute("INSERT INTO quota_waiters VALUES (%s, gen_random_uuid(), 1, now(), now() + %s)", row)
    assert cli("quota", "show", "--json").record["waiting"] == 1
    assert "waiting   1 call, first come, first served" in cli("quota", "show").out.splitlines()


def test_check_exits_with_4_when_a_limit_is_reached(ada, atlas, cli):
    assert cli("quota", "show", "--check").code == 0
    atlas.quotas.add_tokens(ada, 1_000_000)
    ran = cli("quota", "show", "--check")
    assert ran.code == 4
    assert ran.err == "a limit is reached: tokens: 1000000 of 1000000 are taken\n"
    assert "the month's tokens have run out" in ran.out
    assert cli("quota", "show").code == 0
    ran = cli("quota", "show", "--check", "--json")
    assert (ran.code, ran.record["dimension"]) == (4, "tokens")


def test_a_top_up_shows_until_it_expires(ada, atlas, cli, change, dsn):
    cli("quota", "grant", "--tokens", "1.5k", "--cost", "$2.50", "--expires", "30d", "--reason", "a \x1b[2J gift")
    (line,) = [line for line in cli("quota", "show").out.splitlines() if line.startswith("top-up")]
    assert line.startswith("top-up  1,500 tokens  $2.50  until ")
    assert line.endswith("a \\x1b[2J gift")
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE quota_grants SET expires_at = now() - interval '1 s'")
    assert "top-up" not in cli("quota", "show").out


def test_many_holds_are_cut(ada, atlas, cli):
    for _ in range(22):
        atlas.quotas.reserve(ada, tokens=1)
    ran = cli("quota", "show")
    assert ran.out.count("running") == 20
    assert ran.err == "2 more are running; --json has all of them\n"
    assert len(cli("quota", "show", "--json").record["holds"]) == 22


def test_another_user_is_named_by_address(ada, atlas, cli):
    atlas.users.create("eve@example.com", plan="pro")
    assert cli("quota", "show", "--user", "Eve@example.com", "--json").record["user"]["plan"] == "pro"
    ran = cli("quota", "show", "--user", "nobody@example.com")
    assert (ran.code, ran.sentence) == (3, "no user of this database has the address nobody@example.com")


def test_without_settings_it_is_the_local_user(ada, atlas, cli, monkeypatch):
    monkeypatch.delenv("ATLAS_USER")
    local = atlas.users.local()
    assert cli("quota", "show", "--json").record["user"]["id"] == str(local.id)


def test_set_changes_what_is_given(ada, atlas, cli):
    given = ["--tokens", "10M", "--cost", "2.5", "--containers", "unlimited", "--requests-per-hour", "1.5k"]
    more = ["--builds-per-day", "7", "--memory", "1GiB", "--memory-hard", "--time-zone", "Europe/Berlin"]
    ran = cli("quota", "set", *given, *more, "--json")
    assert ran.code == 0
    assert ran.record["overridden"] == ["builds", "containers", "cost", "memory", "requests", "tokens"]
    usage = atlas.quotas.usage(ada)
    assert (usage.tokens_limit, usage.cost_limit, usage.slots_limit) == (10_000_000, Decimal("2.5"), None)
    assert (usage.requests_limit, usage.builds_limit, usage.time_zone) == (1500, 7, "Europe/Berlin")
    memory = atlas.quotas.memory(ada)
    assert (memory.limit, memory.hard) == (2**30, True)
    assert "builds      0      of 7           0 %  today, Europe/Berlin" in cli("quota", "set", "--memory-soft").out
    assert atlas.quotas.memory(ada).hard is False
    assert atlas.quotas.usage(ada) == usage


def test_set_moves_between_plans_and_drops_overrides(ada, atlas, cli):
    cli("quota", "set", "--tokens", "5")
    found = cli("quota", "set", "--plan", "pro", "--json").record
    assert (found["user"]["plan"], found["tokens"]["limit"], found["cost"]["limit"]) == ("pro", 5, "100")
    found = cli("quota", "set", "--plan-limits", "--cost", "1", "--json").record
    assert (found["tokens"]["limit"], found["cost"]["limit"], found["overridden"]) == (10_000_000, "1", ["cost"])


def test_set_changes_a_plan_for_everybody(ada, atlas, cli):
    ran = cli("quota", "set", "--for-plan", "free", "--tokens", "unlimited", "--memory", "1MB", "--json")
    assert ran.record == {
        "plan": "free",
        "tokens": None,
        "cost": "10",
        "containers": 2,
        "requests_per_hour": 100,
        "builds_per_day": 10,
        "memory_bytes": 1_000_000,
        "memory_hard": False,
        "projects": 1000,
        "sessions": 100,
        "previews": 20,
    }
    assert atlas.quotas.usage(ada).tokens_limit is None
    assert atlas.quotas.memory(ada).limit == 1_000_000
    assert "tokens             unlimited" in cli("quota", "set", "--for-plan", "free", "--cost", "11").out.splitlines()
    counts = cli(
        "quota",
        "set",
        "--for-plan",
        "free",
        "--projects",
        "1.5k",
        "--sessions",
        "unlimited",
        "--previews",
        "0",
        "--json",
    )
    assert [counts.record[name] for name in ("projects", "sessions", "previews")] == [1500, None, 0]
    assert cli("quota", "set", "--for-plan", "gold", "--cost", "11").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "nothing to set: give a limit, --plan, --plan-limits or --time-zone"),
        (["--for-plan", "free"], 2, "nothing to set: give a limit"),
        (["--for-plan", "free", "--user", "x@y", "--tokens", "1"], 2, "--for-plan changes a plan"),
        (["--tokens", "many"], 2, "'many' is not a whole number such as 5000, 1.5k or 10M, or unlimited"),
        (["--tokens", "-5"], 2, "'-5' is not a whole number"),
        (["--tokens", "1e99"], 2, "'1e99' is not a whole number"),
        (["--cost", "nan"], 2, "'nan' is not a number of dollars"),
        (["--memory", "5Mi"], 2, "'5Mi' is not a size such as 500000, 100MiB or 1GB, or unlimited"),
        (["--tokens", "99999999999999999999"], 2, "tokens must be from 0 to"),
        (["--time-zone", "Mars/Olympus", "--tokens", "1"], 2, "Mars/Olympus"),
        (["--plan", "gold", "--time-zone", "UTC"], 3, "no plan is called 'gold'; there are: free, pro, enterprise"),
    ],
)
def test_set_refuses_what_it_does_not_understand_and_changes_nothing(ada, atlas, cli, arguments, code, sentence):
    before = atlas.quotas.usage(ada)
    ran = cli("quota", "set", *arguments)
    assert ran.code == code
    assert sentence in ran.sentence
    assert atlas.quotas.usage(ada) == before


def test_grant_in_json(ada, atlas, cli):
    made = cli("quota", "grant", "--cost", "5", "--expires", "2099-12-31", "--reason", "gift", "--json").record
    assert (made["tokens"], made["cost"], made["reason"], made["closed_at"]) == (0, "5", "gift", None)
    expires = datetime.fromisoformat(made["expires_at"]).astimezone()
    assert (expires.date().isoformat(), expires.hour, expires.minute) == ("2099-12-31", 23, 59)
    assert atlas.quotas.usage(ada).cost_limit == 15
    assert cli("quota", "grant", "--tokens", "1M", "--json").record["expires_at"] is None
    assert "never expires" in cli("quota", "grant", "--tokens", "1M").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to grant: give --tokens or --cost"),
        (["--tokens", "5", "--expires", "soon"], "'soon' is not a wait such as 12h, 30d or 4w, or a date"),
        (["--tokens", "5", "--expires", "2020-01-01"], "a grant must expire in the future"),
        (["--tokens", "5", "--expires", "99999w"], "'99999w' is not a wait"),
        (["--tokens", "unlimited"], "'unlimited' is not a whole number"),
    ],
)
def test_grant_refuses_what_makes_no_sense(ada, atlas, cli, arguments, sentence):
    ran = cli("quota", "grant", *arguments)
    assert ran.code == 2
    assert sentence in ran.sentence
    assert atlas.quotas.grants(ada) == []


def test_history_and_reset(ada, atlas, cli, change):
    assert cli("quota", "history").err == "no month has ended yet\n"
    atlas.quotas.add_tokens(ada, 1234, cost="0.5")
    change(
        ada,
        "period_anchor = period_anchor - interval '40 days', period_start = period_start - interval '40 days', "
        "period_end = period_end - interval '40 days'",
    )
    assert cli("quota", "reset").out == "1 month closed\n"
    assert cli("quota", "reset", "--json").record == {"closed": 0}
    (line,) = cli("quota", "history").out.splitlines()
    assert line.endswith("1,234 tokens  of 1,000,000  $0.50  of $10.00")
    (period,) = cli("quota", "history", "--json").records
    assert (period["tokens_used"], period["cost_used"], period["cost_limit"]) == (1234, "0.5", "10")
    assert cli("quota", "history", "-n", "1").code == 0


def test_verify_names_what_does_not_balance_and_exits_with_6(ada, atlas, cli, change):
    assert cli("quota", "verify").out.endswith("month: the counters match the ledger\n")
    eve = atlas.users.create("eve@example.com")
    atlas.quotas.add_tokens(eve, 5)
    change(eve, "tokens_used = 6, cost_held = 1")
    ran = cli("quota", "verify")
    assert ran.code == 6
    (line,) = ran.out.splitlines()
    assert line.startswith(f"unbalanced  user {eve.id}  month of ")
    assert line.endswith("tokens_used 6 but 5 on record, cost_held 1.000000000 but 0 on record")
    assert ran.err == "1 month of 2 not balanced\n"
    ran = cli("quota", "verify", "--json")
    assert (ran.code, ran.record["ok"], ran.record["periods"]) == (6, False, 2)
    assert ran.record["unbalanced"][0]["differences"]["tokens_used"] == ["6", "5"]


def test_a_database_without_the_login_s_user_says_who_is_there(dsn, cli):
    ran = cli("quota", "show", "--dsn", dsn)
    assert ran.code == 3
    assert "has no user in this database" in ran.sentence
    assert ran.sentence.endswith("atlasctl init makes one, atlasctl user list shows the others")
    assert "project" not in ran.sentence
