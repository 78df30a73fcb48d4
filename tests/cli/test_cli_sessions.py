"""Sessions are issued, listed and revoked from the command line. A token is shown only once."""

from datetime import UTC, datetime, timedelta

import pytest

from atlas_sdk import Atlas, InvalidToken, SigningKeys


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Write a file of signing keys, and let ATLAS_SIGNING_KEYS name it."""
    monkeypatch.setenv("ATLAS_SIGNING_KEYS", str(tmp_path / "keys"))
    SigningKeys.generate().write(tmp_path / "keys")


@pytest.fixture
def client(keys, dsn):
    """Yield a client with these keys."""
    with Atlas.open(dsn) as client:
        yield client


@pytest.fixture
def ada(client, dsn, monkeypatch):
    """Return a user in a database of her own, for whom the commands act."""
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    monkeypatch.setenv("ATLAS_USER", "ada@example.com")
    return client.users.create("ada@example.com")


def test_issue_prints_the_token_alone_and_no_log_has_it(ada, client, cli, monkeypatch):
    monkeypatch.setenv("ATLAS_QUERY_LOG", "true")
    ran = cli("sessions", "issue", "--verbose")
    assert ran.code == 0
    session = client.sessions.verify(ran.out.removesuffix("\n"))
    assert session.user_id == ada.id
    assert timedelta(days=29) < session.expires_at - datetime.now(UTC) <= timedelta(days=30, seconds=1)
    assert f"shown only now; the session {session.id.hex[:12]} is valid until" in ran.err
    assert not any(part in ran.err for part in ran.out.strip().split("."))
    listed = cli("sessions", "list", "--json")
    assert [one["id"] for one in listed.records] == [str(session.id)]
    assert ran.out.strip().split(".")[1] not in listed.out


def test_issue_as_json_for_a_time(ada, client, cli):
    for expires in ("12h", f"{datetime.now().astimezone() + timedelta(hours=12):%Y-%m-%dT%H:%M:%S}"):
        found = cli("sessions", "issue", "--expires", expires, "--user", "ada@example.com", "--json").record
        assert list(found) == [
            *("id", "user_id", "active", "ip", "user_agent", "created_at", "last_seen_at", "expires_at", "token")
        ]
        session = client.sessions.verify(found["token"])
        assert timedelta(hours=11) < session.expires_at - datetime.now(UTC) <= timedelta(hours=12, seconds=1)


def test_list_says_since_when_and_from_where(ada, client, cli):
    assert cli("sessions", "list").err == "nobody is signed in\n"
    issued = client.sessions.issue(ada, ip="192.0.2.7", user_agent="curl/8")
    (line,) = cli("sessions", "list").out.splitlines()
    assert line.startswith(f"{issued.session.id.hex[:12]}  issued ")
    assert line.endswith("192.0.2.7  curl/8")


def test_revoke_ends_one_or_all(ada, client, cli):
    first, second, third = (client.sessions.issue(ada) for _ in range(3))
    assert cli("sessions", "revoke", first.session.id).out == "1 session ended\n"
    with pytest.raises(InvalidToken):
        client.sessions.verify(first.token)
    assert client.sessions.verify(second.token).id == second.session.id
    assert cli("sessions", "revoke", first.session.id).code == 3
    assert cli("sessions", "revoke", "--all", "--json").record == {"revoked": 2}
    with pytest.raises(InvalidToken):
        client.sessions.verify(third.token)


def test_an_id_that_fits_two_sessions_ends_none(ada, client, cli):
    found = [client.sessions.issue(ada).session.id.hex for _ in range(2)]
    shared = next(found[0][:at] for at in range(32) if found[0][at] != found[1][at])
    ran = cli("sessions", "revoke", shared)
    assert (ran.code, ran.sentence) == (2, f"'{shared}' fits 2 sessions; give more of the id")
    assert len(client.sessions.list(ada)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["revoke"], 2, "give the ID of a session, or --all"),
        (["revoke", "01", "--all"], 2, "give the ID of a session, or --all"),
        (["revoke", "nonsense"], 3, "no valid session of this user has the id 'nonsense'"),
        (["issue", "--expires", "soon"], 2, "'soon' is not a wait such as 12h, 30d or 4w, or a date"),
        (["issue", "--expires", "9999d"], 2, "ttl must be from 1 second to 400 days"),
        (["issue", "--user", "bob@example.com"], 3, "no user of this database has the address bob@example.com"),
    ],
)
def test_errors_are_one_sentence(ada, cli, arguments, code, sentence):
    ran = cli("sessions", *arguments)
    assert ran.code == code
    assert sentence in ran.sentence
