"""Session tokens: their contents, their verification and their end, through both clients."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from forging import forged, refused, unpacked

from atlas_sdk import AsyncAtlas, Atlas, InvalidInput, InvalidToken, IssuedSession, NotFound, Session, SigningKeys, User

pytestmark = pytest.mark.usefixtures("keys")

NIL = uuid.UUID(int=0)


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com")


@pytest.fixture
def issued(client: Any, user: User) -> IssuedSession:
    return client.sessions.issue(user)


# Contents of a token.


def test_a_token_opens_its_session(client: Any, user: User) -> None:
    before = datetime.now(UTC)
    issued = client.sessions.issue(user, ip="203.0.113.9", user_agent="Firefox")
    session = client.sessions.verify(issued.token)
    assert session == issued.session
    assert (session.user_id, session.ip, session.user_agent, session.is_active) == (
        *(user.id, "203.0.113.9", "Firefox"),
        True,
    )
    assert timedelta(days=30) <= session.expires_at - before < timedelta(days=30, minutes=5)


def test_a_token_carries_ids_times_and_the_name_of_its_key(client: Any, user: User, keys: SigningKeys) -> None:
    issued = client.sessions.issue(user, ttl=timedelta(hours=1))
    header, payload = unpacked(issued.token)
    assert header == {"alg": "HS256", "kid": keys.kid, "typ": "atlas-session+jwt"}
    assert payload.keys() == {"sub", "jti", "iat", "exp"}
    assert (payload["sub"], payload["jti"]) == (str(user.id), str(issued.session.id))
    assert payload["exp"] == issued.session.expires_at.timestamp()
    assert 3600 <= payload["exp"] - payload["iat"] <= 3601
    assert len(issued.token) < 400


def test_only_the_hash_of_a_token_is_stored(client: Any, user: User, migrated: Any) -> None:
    issued = client.sessions.issue(user)
    ((stored,),) = migrated.execute("SELECT token_hash FROM sessions").fetchall()
    assert stored == hashlib.sha256(issued.token.encode()).digest()
    for table in ("sessions", "events", "users"):
        rows = migrated.execute(psycopg.sql.SQL("SELECT t::text FROM {} AS t").format(psycopg.sql.Identifier(table)))
        assert not any(issued.token.rsplit(".", 1)[1] in row for (row,) in rows)


def test_every_sign_in_has_a_token_of_its_own(client: Any, user: User) -> None:
    issued = [client.sessions.issue(user) for _ in range(3)]
    assert len({one.token for one in issued} | {one.session.id for one in issued}) == 6
    assert [client.sessions.verify(one.token) for one in issued] == [one.session for one in issued]


@pytest.mark.parametrize("ttl", [timedelta(), timedelta(milliseconds=999), timedelta(days=-1), timedelta(days=401)])
def test_a_session_lasts_from_a_second_to_four_hundred_days(client: Any, user: User, ttl: timedelta) -> None:
    with pytest.raises(InvalidInput) as failure:
        client.sessions.issue(user, ttl=ttl)
    assert failure.value.field == "ttl"
    for allowed in (timedelta(seconds=1), timedelta(days=400)):
        assert client.sessions.issue(user, ttl=allowed).session.is_active


def test_what_a_client_says_of_itself_is_made_to_fit(client: Any, user: User) -> None:
    odd = client.sessions.issue(user, ip="fe80::1%eth0", user_agent="x\0\ud800" + "y" * 5000).session
    assert odd.ip == "fe80::1"
    assert client.sessions.issue(user, ip="::ffff:10.0.0.1").session.ip == "10.0.0.1"
    assert client.with_context(ip="testclient", strict=False).sessions.issue(user).session.ip is None
    assert odd.user_agent is not None
    assert len(odd.user_agent) == 1024
    with pytest.raises(InvalidInput) as failure:
        client.sessions.issue(user, ip="localhost")
    assert failure.value.field == "ip"


def test_a_request_says_where_its_session_comes_from(dsn: str, migrated: Any) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com")
        request = atlas.with_context(ip="203.0.113.9", user_agent="Firefox")
        session = request.sessions.issue(user).session
        assert (session.ip, session.user_agent) == ("203.0.113.9", "Firefox")
        assert request.sessions.issue(user, ip="198.51.100.7").session.ip == "198.51.100.7"
        told = migrated.execute("SELECT host(ip), user_agent FROM events WHERE type = 'session.issued' ORDER BY id")
        assert told.fetchall() == [("203.0.113.9", "Firefox"), ("198.51.100.7", "Firefox")]


def test_a_user_who_is_gone_gets_no_session(client: Any, user: User) -> None:
    client.users.delete(user)
    with pytest.raises(NotFound):
        client.sessions.issue(user)


# The end of a session.


def test_an_expired_session_opens_nothing(client: Any, user: User, issued: IssuedSession, migrated: Any) -> None:
    end = "UPDATE sessions SET created_at = now() - interval '2 days', expires_at = now() - interval '1 millisecond'"
    migrated.execute(end)
    assert refused(client, issued.token) == "expired"
    assert client.sessions.list(user) == []
    assert not client.sessions.touch(issued.session)


def test_a_token_expires_when_it_says_so_whatever_the_row_says(
    client: Any, issued: IssuedSession, keys: SigningKeys, migrated: Any
) -> None:
    secret = keys.secret_of(keys.kid)
    assert secret is not None
    old = forged(issued.token, secret, exp=int(datetime.now(UTC).timestamp()) - 1)
    migrated.execute("ALTER TABLE sessions DISABLE TRIGGER USER")
    migrated.execute("UPDATE sessions SET token_hash = %s", [hashlib.sha256(old.encode()).digest()])
    assert refused(client, old) == "expired"


def test_a_short_session_ends_by_itself(client: Any, user: User, migrated: Any) -> None:
    issued = client.sessions.issue(user, ttl=timedelta(seconds=1))
    assert client.sessions.verify(issued.token) == issued.session
    migrated.execute("SELECT pg_sleep_until(%s)", [issued.session.expires_at])
    assert refused(client, issued.token) == "expired"


def test_revocation_is_immediate_and_final(client: Any, user: User, dsn: str, migrated: Any) -> None:
    issued, other = client.sessions.issue(user), client.sessions.issue(user)
    with Atlas.open(dsn) as elsewhere:
        assert elsewhere.sessions.verify(issued.token) == issued.session
        ended = client.sessions.revoke(issued.session)
        assert (ended.id, ended.is_active) == (issued.session.id, False)
        with pytest.raises(InvalidToken) as failure:
            elsewhere.sessions.verify(issued.token)
        assert failure.value.reason == "revoked"
    assert refused(client, issued.token) == "revoked"
    assert client.sessions.revoke(issued.session) is client.sessions.revoke(issued.token) is None
    assert not client.sessions.touch(issued.session)
    assert client.sessions.verify(other.token) == other.session
    assert client.sessions.list(user) == [other.session]
    told = migrated.execute("SELECT meta->>'session' FROM events WHERE type = 'session.revoked'").fetchall()
    assert told == [(str(issued.session.id),)]


def test_a_session_is_revoked_by_its_token(client: Any, user: User, keys: SigningKeys, migrated: Any) -> None:
    issued = client.sessions.issue(user)
    secret = keys.secret_of(keys.kid)
    assert secret is not None
    with pytest.raises(InvalidToken):
        client.sessions.revoke(forged(issued.token, b"k" * 32))
    with pytest.raises(InvalidToken):
        client.sessions.revoke("x")
    # This token is signed, but it is not the token of the session.
    assert client.sessions.revoke(forged(issued.token, secret, iat=0)) is None
    assert client.sessions.verify(issued.token) == issued.session
    assert client.sessions.revoke(issued.token).id == issued.session.id
    assert refused(client, issued.token) == "revoked"


def test_all_sessions_of_a_user_are_revoked_but_one(client: Any, user: User, migrated: Any) -> None:
    bob = client.users.create("bob@example.com")
    theirs = client.sessions.issue(bob)
    issued = [client.sessions.issue(user) for _ in range(4)]
    assert client.sessions.revoke_all(user, except_session=issued[1].session) == 3
    assert client.sessions.list(user) == [issued[1].session]
    assert client.sessions.revoke_all(user, except_session=issued[1].session) == 0
    assert client.sessions.revoke_all(user, except_session=theirs.session) == 1
    assert [refused(client, one.token) for one in issued] == ["revoked"] * 4
    assert client.sessions.verify(theirs.token) == theirs.session
    told = migrated.execute("SELECT meta->'sessions', meta->>'kept' FROM events WHERE type = 'session.all_revoked'")
    assert told.fetchall() == [(3, str(issued[1].session.id)), (1, str(theirs.session.id))]


def test_revoking_all_at_once_counts_each_session_once(dsn: str) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com")
        for _ in range(5):
            tokens = [atlas.sessions.issue(user).token for _ in range(8)]
            together = threading.Barrier(6)

            def revoke(_: int, together: threading.Barrier = together) -> int:
                together.wait(30)
                return atlas.sessions.revoke_all(user)

            with ThreadPoolExecutor(6) as threads:
                assert sum(threads.map(revoke, range(6))) == 8
            assert [refused(atlas, token) for token in tokens] == ["revoked"] * 8


def test_revoking_all_at_once_counts_each_session_once_on_asyncio(dsn: str) -> None:
    async def run() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.create("ada@example.com")
            issued = await asyncio.gather(*(atlas.sessions.issue(user) for _ in range(8)))
            assert sum(await asyncio.gather(*(atlas.sessions.revoke_all(user) for _ in range(6)))) == 8
            answers = await asyncio.gather(
                *(atlas.sessions.verify(one.token) for one in issued), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [InvalidToken] * 8

    asyncio.run(run())


@pytest.mark.parametrize(
    "change",
    [
        "is_active = true",
        "is_active = true, last_seen_at = now()",
        "expires_at = expires_at + interval '1 second'",
        "token_hash = sha256('x')",
        "id = gen_random_uuid()",
        "user_id = %(other)s",
    ],
)
def test_the_database_lets_no_session_come_back(client: Any, user: User, migrated: Any, change: str) -> None:
    issued = client.sessions.issue(user)
    other = client.users.create("bob@example.com").id
    client.sessions.revoke(issued.session)
    with pytest.raises(psycopg.Error, match=f"the session {issued.session.id} is revoked: it cannot become") as failure:
        migrated.execute(f"UPDATE sessions SET {change}", {"other": other})
    assert failure.value.sqlstate == "23T01"
    migrated.execute("UPDATE sessions SET last_seen_at = now(), expires_at = created_at + interval '1 second'")
    assert refused(client, issued.token) == "revoked"


# Use and maintenance.


def test_the_last_use_is_written_once_a_minute(client: Any, issued: IssuedSession, migrated: Any) -> None:
    def row() -> tuple[Any, ...]:
        return migrated.execute("SELECT xmin::text, last_seen_at FROM sessions").fetchone()

    before = row()
    assert not client.sessions.touch(issued.session)
    assert row() == before
    migrated.execute("UPDATE sessions SET last_seen_at = last_seen_at - interval '59 seconds'")
    assert not client.sessions.touch(issued.session)
    migrated.execute("UPDATE sessions SET last_seen_at = last_seen_at - interval '1 second'")
    assert client.sessions.touch(issued.session)
    assert not client.sessions.touch(issued.session)
    seen = client.sessions.verify(issued.token).last_seen_at
    assert seen == row()[1] >= before[1]


def test_sessions_are_listed_newest_first(client: Any, user: User) -> None:
    issued = [client.sessions.issue(user).session for _ in range(3)]
    client.sessions.issue(client.users.create("bob@example.com"))
    assert client.sessions.list(user) == issued[::-1]
    assert client.sessions.list(user, limit=2) == [issued[2], issued[1]]
    for limit in (0, 10_001):
        with pytest.raises(InvalidInput, match="limit"):
            client.sessions.list(user, limit=limit)


def test_expired_sessions_are_purged_in_batches(client: Any, user: User, migrated: Any) -> None:
    bob = client.users.create("bob@example.com")
    issued = [client.sessions.issue(who) for who in (user, bob) for _ in range(4)]
    kept = issued[3], issued[7]
    expire = """UPDATE sessions SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day'
                WHERE id <> ALL(%s)"""
    migrated.execute(expire, [[one.session.id for one in kept]])
    # A revoked session stays until it expires. It is refused anyway, and its row is a record.
    client.sessions.revoke(kept[1].session)
    assert client.sessions.purge_expired(limit=4) == 6
    assert client.sessions.purge_expired() == 0
    left = {found for (found,) in migrated.execute("SELECT id FROM sessions").fetchall()}
    assert left == {one.session.id for one in kept}
    assert client.sessions.verify(kept[0].token) == kept[0].session
    assert refused(client, issued[0].token) == "unknown session"
    told = migrated.execute(
        "SELECT user_id, type, meta->'removed' FROM events WHERE type ~ 'maintenance|purged' ORDER BY id"
    )
    # The event has the name of the maintenance job, also for this call.
    assert told.fetchall() == [(NIL, "maintenance.sessions", 6), (NIL, "maintenance.sessions", 0)]
    with pytest.raises(InvalidInput):
        client.sessions.purge_expired(limit=0)


def test_many_may_purge_at_once(dsn: str, migrated: Any) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com")
        migrated.execute(
            """INSERT INTO sessions (user_id, id, token_hash, created_at, expires_at)
               SELECT %s, gen_random_uuid(), sha256(n::text::bytea), now() - interval '2 days',
                      now() - interval '1 day' FROM generate_series(1, 500) AS n""",
            [user.id],
        )
        with ThreadPoolExecutor(4) as threads:
            done = [threads.submit(atlas.sessions.purge_expired, limit=20) for _ in range(4)]
            assert sum(one.result(60) for one in done) == 500


def test_verifying_is_one_statement(dsn: str, caplog: Any) -> None:
    with Atlas.open(dsn, query_log=True) as atlas:
        user = atlas.users.create("ada@example.com")
        token = atlas.sessions.issue(user).token
        with caplog.at_level("DEBUG", logger="atlas_sdk.queries"):
            assert isinstance(atlas.sessions.verify(token), Session)
        assert [message.split(":")[0] for message in caplog.messages] == ["sessions.look"]
