"""Plans are listed and added from the command line."""

import pytest

TEAM = ("--tokens", "5M", "--cost", "unlimited", "--containers", "5", "--requests-per-hour", "1k")


@pytest.fixture(autouse=True)
def _server(dsn, monkeypatch):
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)


def test_list_has_the_limits_of_every_plan(cli):
    lines = cli("plans", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["free", "pro", "enterprise"]
    assert " ".join(lines[0].split()) == (
        "free 1,000,000 tokens $10.00 2 containers 100 requests an hour 10 builds a day 100.0 MiB memory"
    )
    records = cli("plans", "list", "--json").records
    assert [one["plan"] for one in records] == ["free", "pro", "enterprise"]
    assert cli("plans", "show", "pro", "--json").record == records[1]
    assert "requests per hour  1000" in cli("plans", "show", "pro").out


def test_add_makes_a_plan_and_what_is_left_out_is_unlimited(cli, atlas):
    made = cli("plans", "add", "team", *TEAM, "--builds-per-day", "50", "--json").record
    assert (made["tokens"], made["cost"], made["memory_bytes"], made["projects"]) == (5_000_000, None, None, None)
    assert made == cli("plans", "show", "team", "--json").record
    assert "unlimited memory" in cli("plans", "list").out
    again = cli("plans", "add", "team", *TEAM, "--builds-per-day", "50")
    assert again.code == 1
    assert "a plan 'team' exists already" in again.sentence


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["show", "gold"], 3, "no plan is called 'gold'; there are: free, pro, enterprise"),
        (["add", "team", *TEAM], 2, "--requests-per-hour, --builds-per-day: a number, or unlimited"),
        (["add", "Team!", *TEAM, "--builds-per-day", "1"], 2, ""),
    ],
)
def test_errors_are_one_sentence(cli, atlas, arguments, code, sentence):
    ran = cli("plans", *arguments)
    assert ran.code == code
    assert sentence in ran.sentence
    assert len(atlas.quotas.plans()) == 3
