"""Signing in with a password, and the end of an account, through both faces."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import argon2
import psycopg
import pytest
from guard_adapter import until, waiting
from patience import PATIENCE_S

from atlas_sdk import (
    AsyncAtlas,
    Atlas,
    AuthError,
    InvalidInput,
    InvalidToken,
    NotFound,
    User,
)
from atlas_sdk.ops import passwords

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")

NIL = "00000000-0000-0000-0000-000000000000"
PASSWORD = "correct horse battery"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=256, parallelism=1)
#: What a rehash goes to in these tests; the real cost has tests of its own.
PARAMETERS = "$argon2id$v=19$m=512,t=1,p=1$"


class Work:
    """What argon2 had to do."""

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.hashed = 0
        self.threads: set[int] = set()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    counted = Work()
    verify, hash_ = argon2.PasswordHasher.verify, argon2.PasswordHasher.hash

    def counting_verify(self: Any, stored: str, password: bytes) -> bool:
        counted.verified.append(stored.rsplit("$", 2)[0] + "$")
        counted.threads.add(threading.get_ident())
        return verify(self, stored, password)

    def counting_hash(self: Any, password: bytes) -> str:
        counted.hashed += 1
        counted.threads.add(threading.get_ident())
        return hash_(self, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counting_verify)
    monkeypatch.setattr(argon2.PasswordHasher, "hash", counting_hash)
    return counted


def stored_hash(connection: psycopg.Connection[Any], user: User) -> str:
    ((found,),) = connection.execute("SELECT password_hash FROM users WHERE id = %s", [user.id]).fetchall()
    return found


def events_of(connection: psycopg.Connection[Any], user_id: object) -> list[tuple[str, dict[str, Any]]]:
    rows = connection.execute("SELECT type, meta FROM events WHERE user_id = %s ORDER BY id", [user_id]).fetchall()
    return [
        (kind, {name: value for name, value in meta.items() if name not in {"source", "login"}}) for kind, meta in rows
    ]


# Passwords.


def test_the_right_password_signs_in_and_no_other_does(face: Any) -> None:
    ada = face.users.create("ada@example.com", password=PASSWORD)
    bob = face.users.create("bob@example.com", password="another one entirely")
    assert face.users.authenticate(" ADA@Example.com", PASSWORD) == ada
    assert face.users.authenticate("bob@example.com", "another one entirely") == bob
    for wrong in ("", " ", PASSWORD[:-1], PASSWORD + " ", PASSWORD.upper(), "another one entirely", "\0", "x" * 5000):
        assert face.users.authenticate("ada@example.com", wrong) is None
    for unknown in ("nobody@example.com", "", "ada", "a\0b@example.com", "\ud800@example.com", "x" * 5000 + "@x"):
        assert face.users.authenticate(unknown, PASSWORD) is None


def test_a_hash_is_argon2id_with_the_cost_that_is_promised(face: Any, migrated: Any, monkeypatch: Any) -> None:
    monkeypatch.undo()
    user = face.users.create("ada@example.com", password=PASSWORD)
    assert stored_hash(migrated, user).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert face.users.authenticate("ada@example.com", PASSWORD) == user


def test_equal_passwords_have_different_hashes(face: Any, migrated: Any) -> None:
    users = [face.users.create(f"{name}@example.com", password=PASSWORD) for name in ("ada", "bob")]
    assert len({stored_hash(migrated, user) for user in users}) == 2


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("", "at least 8 characters"),
        ("1234567", "at least 8 characters"),
        # One ligature that NFKC makes 18 letters of, and eight letters that it makes seven of.
        ("\ufdfa", "at least 8 characters"),
        ("e\u0301123456", "at least 8 characters"),
        ("x" * 1025, "at most 1,024 bytes"),
        ("é" * 513, "at most 1,024 bytes"),
        ("\ufdfa" * 1000, "at most 1,024 bytes"),
        ("secret\ud800secret", "valid text"),
        ("secret\u0378secret", "Unicode does not assign"),
        (b"secretsecret", "must be a str, not a bytes"),
    ],
)
def test_what_is_no_password_is_refused_and_not_quoted(face: Any, password: Any, sentence: str) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    for attempt in (
        lambda: face.users.create("bob@example.com", password=password),
        lambda: face.users.set_password(user, password),
    ):
        with pytest.raises(InvalidInput, match=sentence) as failure:
            attempt()
        assert failure.value.field == "password"
        assert failure.value.__cause__ is failure.value.__context__ is None
        assert "secret" not in str(failure.value)
    assert face.users.by_email("bob@example.com") is None
    assert face.users.authenticate("ada@example.com", PASSWORD) == user


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "é" * 512, "a b\tc\nd\0e f", "密码密码密码密码"])
def test_the_bounds_belong_to_what_is_allowed(face: Any, password: str) -> None:
    user = face.users.create("ada@example.com", password=password)
    assert face.users.authenticate("ada@example.com", password) == user


@pytest.mark.parametrize(
    ("set_as", "typed_as"),
    [("cafe\u0301 crème", "café crème"), ("\uff50\uff41ssword", "password"), ("oﬃce 123", "office 123")],
)
def test_the_same_letters_are_the_same_password(face: Any, set_as: str, typed_as: str) -> None:
    user = face.users.create("ada@example.com", password=set_as)
    assert face.users.authenticate("ada@example.com", typed_as).id == user.id
    face.users.set_password(user, typed_as)
    assert face.users.authenticate("ada@example.com", set_as).id == user.id


def test_nothing_of_a_long_password_is_cut_off(face: Any) -> None:
    face.users.create("ada@example.com", password="x" * 1023 + "y")
    assert face.users.authenticate("ada@example.com", "x" * 1024) is None
    assert face.users.authenticate("ada@example.com", "x" * 1023 + "yz") is None


# Hashes from elsewhere.


def test_an_argon2_hash_from_elsewhere_signs_in_and_is_renewed(face: Any, migrated: Any) -> None:
    foreign = CHEAP.hash("short")
    user = face.users.create("ada@example.com", password_hash=foreign)
    assert stored_hash(migrated, user) == foreign
    assert face.users.authenticate("ada@example.com", "wrong") is None
    assert stored_hash(migrated, user) == foreign
    assert face.users.authenticate("ada@example.com", "short").id == user.id
    renewed = stored_hash(migrated, user)
    assert renewed.startswith(PARAMETERS)
    assert face.users.authenticate("ada@example.com", "short").id == user.id
    assert stored_hash(migrated, user) == renewed
    signed_in = [meta["rehashed"] for kind, meta in events_of(migrated, user.id) if kind == "user.signed_in"]
    assert signed_in == [True, False]


@pytest.mark.parametrize(
    "foreign",
    [
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk",
        # More memory than a sign-in may take; a tag that could be guessed; a salt that is no base64.
        "$argon2id$v=19$m=4194304,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b0dWRWJTmaaJObG",
        "$argon2id$v=19$m=512,t=1,p=1$c29tZXNhbHQ$Rdescud",
        "$argon2id$v=19$m=512,t=1,p=1$c29tZXNhbHQAA$RdescudvJCsgt3ub+b0dWRWJTmaaJObG",
    ],
)
def test_a_hash_that_cannot_be_verified_is_stored_and_signs_nobody_in(
    face: Any, migrated: Any, work: Work, foreign: str
) -> None:
    user = face.users.create("ada@example.com", password_hash=foreign)
    assert stored_hash(migrated, user) == foreign
    assert face.users.authenticate("ada@example.com", PASSWORD) is None
    assert stored_hash(migrated, user) == foreign
    assert PARAMETERS in work.verified or foreign.startswith("$argon2id$v=19$m=512")
    face.users.set_password(user, PASSWORD)
    assert face.users.authenticate("ada@example.com", PASSWORD).id == user.id


@pytest.mark.parametrize("mistake", ["hunter2hunter2", "", "$", "$2b$", "$2b$12$with space", "$x$" + "y" * 1000, 5])
def test_a_password_given_as_a_hash_is_refused_and_not_quoted(face: Any, mistake: Any) -> None:
    with pytest.raises(InvalidInput, match="password=") as failure:
        face.users.create("ada@example.com", password_hash=mistake)
    assert failure.value.field == "password_hash"
    assert "hunter2" not in str(failure.value)
    with pytest.raises(InvalidInput, match="not both"):
        face.users.create("ada@example.com", password=PASSWORD, password_hash=CHEAP.hash("x"))


# What a stranger can tell.


def test_every_failure_costs_one_verification_with_the_same_parameters(face: Any, work: Work) -> None:
    face.users.create("ada@example.com", password=PASSWORD)
    face.users.create("none@example.com")
    face.users.create("bcrypt@example.com", password_hash="$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0j")
    attempts = [
        ("ada@example.com", "wrong password"),
        ("nobody@example.com", PASSWORD),
        ("none@example.com", PASSWORD),
        ("bcrypt@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("ada@example.com", "x" * 2000),
        ("nobody@example.com", "x" * 2000),
        ("ada@example.com", ""),
        ("nobody@example.com", ""),
    ]
    work.hashed = 0
    for email, password in attempts:
        work.verified.clear()
        assert face.users.authenticate(email, password) is None
        assert work.verified == [PARAMETERS], email
    assert work.hashed == 0


def test_every_failure_writes_one_row(face: Any, migrated: Any) -> None:
    face.users.create("ada@example.com", password=PASSWORD)

    def rows() -> int:
        return migrated.execute("SELECT count(*) FROM events").fetchone()[0]

    for email in ("ada@example.com", "nobody@example.com", "not an address"):
        before = rows()
        assert face.users.authenticate(email, "wrong password") is None
        assert rows() == before + 1


def test_hashing_keeps_off_the_event_loop(dsn: str, work: Work) -> None:
    async def sign_in() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
            work.threads.clear()
            assert await atlas.users.authenticate("ada@example.com", PASSWORD) is not None
            assert await atlas.users.authenticate("ada@example.com", "wrong") is None
            assert await atlas.users.authenticate("nobody@example.com", "wrong") is None
            await atlas.users.set_password(user, PASSWORD)
            await atlas.users.create("bob@example.com", password=PASSWORD)

    asyncio.run(sign_in())
    assert len(work.verified) == 3
    assert threading.get_ident() not in work.threads
    assert work.threads


def test_sign_ins_leave_the_threads_of_asyncio_alone(dsn: str, monkeypatch: Any) -> None:
    verify = argon2.PasswordHasher.verify
    begun: list[int] = []
    go_on = threading.Event()

    def slow(self: Any, stored: str, password: bytes) -> bool:
        begun.append(threading.get_ident())
        assert go_on.wait(PATIENCE_S)
        return verify(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", slow)

    async def both_begun() -> None:
        while len(set(begun)) < 2:  # noqa: ASYNC110  # it is about threads
            await asyncio.sleep(0.01)

    async def sign_in() -> None:
        # As many as compute at once at least, so that all of them could be kept from the application.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
            crowd = [asyncio.create_task(atlas.users.authenticate("ada@example.com", PASSWORD)) for _ in range(8)]
            try:
                await asyncio.wait_for(both_begun(), PATIENCE_S)
                assert await asyncio.wait_for(asyncio.to_thread(lambda: "a file"), PATIENCE_S) == "a file"
            finally:
                go_on.set()
                found = await asyncio.gather(*crowd)
            assert [one and one.id for one in found] == [user.id] * len(crowd)

    asyncio.run(sign_in())


def test_the_threads_of_passwords_see_the_context_of_their_caller(dsn: str, monkeypatch: Any) -> None:
    request: ContextVar[str] = ContextVar("request")
    seen: list[str] = []
    real = passwords.hashed

    def noting(password: bytes) -> str:
        seen.append(request.get())
        return real(password)

    monkeypatch.setattr(passwords, "hashed", noting)

    async def sign_up() -> None:
        request.set("the first")
        async with AsyncAtlas.open(dsn) as atlas:
            await atlas.users.create("ada@example.com", password=PASSWORD)

    asyncio.run(sign_up())
    assert seen == ["the first"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes_in_threads_of_its_own() -> None:
    """The parent's threads are not there: what waits for them would wait for ever."""
    assert passwords._executor.submit(len, "warm").result(PATIENCE_S) == 4
    child = """
import os, sys
from atlas_sdk.ops import passwords
passwords._executor.submit(len, "warm").result(300)
child = os.fork()
if not child:
    os._exit(passwords._executor.submit(len, "child").result(300))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", child], timeout=PATIENCE_S, check=False)
    assert done.returncode == 5


def test_no_transaction_is_open_while_a_password_is_hashed(face: Any, migrated: Any, monkeypatch: Any) -> None:
    seen: list[int] = []
    for name in ("hashed", "matches", "refreshed"):
        real = getattr(passwords, name)

        def spy(*args: Any, real: Any = real) -> Any:
            open_ = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            seen.append(migrated.execute(open_).fetchone()[0])
            return real(*args)

        monkeypatch.setattr(passwords, name, spy)
    user = face.users.create("ada@example.com", password=PASSWORD)
    face.users.authenticate("ada@example.com", PASSWORD)
    face.users.set_password(user, PASSWORD)
    assert seen == [0] * 4


def test_a_password_changed_while_the_old_one_is_compared_does_not_sign_in(
    face: Any, dsn: str, migrated: Any, monkeypatch: Any
) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    real = passwords.matches

    def meanwhile(stored: str | None, password: bytes | None) -> bool:
        answer = real(stored, password)
        with Atlas.open(dsn) as other:
            other.users.set_password(user, "a new one altogether")
        return answer

    monkeypatch.setattr(passwords, "matches", meanwhile)
    assert face.users.authenticate("ada@example.com", PASSWORD) is None
    assert events_of(migrated, user.id)[-1] == ("user.sign_in_failed", {"reason": "changed meanwhile"})


def test_two_who_sign_in_while_the_hash_is_renewed_both_do(
    face: Any, dsn: str, migrated: Any, monkeypatch: Any
) -> None:
    user = face.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
    real = passwords.matches

    def meanwhile(stored: str | None, password: bytes | None) -> bool:
        monkeypatch.setattr(passwords, "matches", real)
        with Atlas.open(dsn) as other:
            assert other.users.authenticate("ada@example.com", PASSWORD) is not None
        return real(stored, password)

    monkeypatch.setattr(passwords, "matches", meanwhile)
    assert face.users.authenticate("ada@example.com", PASSWORD).id == user.id
    assert [kind for kind, _ in events_of(migrated, user.id)] == ["user.created", *["user.signed_in"] * 2]


def test_a_password_set_while_an_old_hash_is_renewed_stays(face: Any, dsn: str, monkeypatch: Any) -> None:
    user = face.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
    real = passwords.refreshed

    def meanwhile(stored: str, password: bytes) -> str | None:
        answer = real(stored, password)
        assert answer is not None
        with Atlas.open(dsn) as other:
            other.users.set_password(user, "a new one altogether")
        return answer

    monkeypatch.setattr(passwords, "refreshed", meanwhile)
    assert face.users.authenticate("ada@example.com", PASSWORD) is None
    monkeypatch.setattr(passwords, "refreshed", real)
    assert face.users.authenticate("ada@example.com", "a new one altogether").id == user.id
    assert face.users.authenticate("ada@example.com", PASSWORD) is None


# Changing it.


def test_a_new_password_replaces_the_old_one_and_ends_the_sessions(face: Any) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    other = face.users.create("bob@example.com")
    here, there, foreign = (face.sessions.issue(who) for who in (user, user, other))
    assert face.users.set_password(user, "a new one altogether", keep=here.session) == 1
    assert face.users.authenticate("ada@example.com", PASSWORD) is None
    assert face.users.authenticate("ada@example.com", "a new one altogether").id == user.id
    assert face.sessions.verify(here.token).id == here.session.id
    assert face.sessions.verify(foreign.token).id == foreign.session.id
    with pytest.raises(InvalidToken):
        face.sessions.verify(there.token)
    # Somebody else's session is nothing to keep.
    assert face.users.set_password(user, "yet another one", keep=foreign.session) == 1
    with pytest.raises(InvalidToken):
        face.sessions.verify(here.token)


def test_who_signed_in_by_the_old_password_gets_no_session(face: Any, migrated: Any) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    by_the_old_one = face.users.authenticate("ada@example.com", PASSWORD)
    assert face.sessions.issue(by_the_old_one).session.is_active
    assert face.users.set_password(user, "a new one altogether") == 1
    for stale in (by_the_old_one, user):
        with pytest.raises(AuthError, match="authenticate again") as failure:
            face.sessions.issue(stale)
        assert not isinstance(failure.value, InvalidToken)
    assert face.sessions.list(user) == []
    assert [kind for kind, _ in events_of(migrated, user.id)].count("session.issued") == 1
    by_the_new_one = face.users.authenticate("ada@example.com", "a new one altogether")
    for fresh in (by_the_new_one, face.users.get(user.id), face.users.update(user, name="Ada")):
        assert face.sessions.issue(fresh).session.is_active


def test_the_first_password_is_a_change_as_well(face: Any) -> None:
    user = face.users.create("ada@example.com")
    assert user.password_changed_at is None
    assert face.sessions.issue(user).session.is_active
    face.users.set_password(user, PASSWORD)
    with pytest.raises(AuthError):
        face.sessions.issue(user)
    assert face.sessions.issue(face.users.authenticate("ada@example.com", PASSWORD)).session.is_active


def test_a_renewed_hash_is_no_new_password(face: Any, migrated: Any) -> None:
    foreign = CHEAP.hash(PASSWORD)
    user = face.users.create("ada@example.com", password_hash=foreign)
    assert face.users.authenticate("ada@example.com", PASSWORD).id == user.id
    assert stored_hash(migrated, user) != foreign
    assert face.sessions.issue(user).session.is_active
    assert face.users.get(user.id).password_changed_at == user.password_changed_at is not None


def test_every_change_of_a_password_has_a_moment_of_its_own(face: Any, migrated: Any) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    # As if the server's clock had been a day ahead.
    ahead = "UPDATE users SET password_changed_at = now() + interval '1 day' RETURNING password_changed_at"
    ((changed_at,),) = migrated.execute(ahead).fetchall()
    before = face.users.get(user.id)
    face.users.set_password(user, "a new one altogether")
    assert face.users.get(user.id).password_changed_at > changed_at
    with pytest.raises(AuthError):
        face.sessions.issue(before)


@pytest.mark.parametrize("how", ["password", "revoked"])
def test_a_session_that_is_being_issued_ends_with_all_others(face: Any, dsn: str, how: str) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    with ThreadPoolExecutor(1) as threads, Atlas.open(dsn) as other:
        with other.transaction() as signing_in:
            token = signing_in.sessions.issue(user).token
            if how == "password":
                ending = threads.submit(face.users.set_password, user, "a new one altogether")
            else:
                ending = threads.submit(face.sessions.revoke_all, user)
            until(lambda: ending.done() or waiting(dsn))
        assert ending.result(PATIENCE_S) == 1
        with pytest.raises(InvalidToken):
            other.sessions.verify(token)


@pytest.mark.parametrize("first", ["password", "deletion"])
def test_a_sign_in_waits_for_a_change_that_is_being_made(face: Any, dsn: str, first: str) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    with ThreadPoolExecutor(1) as threads, Atlas.open(dsn) as other:
        with other.transaction() as changing:
            if first == "password":
                changing.users.set_password(user, "a new one altogether")
            else:
                changing.users.delete(user)
            signing_in = threads.submit(face.sessions.issue, user)
            until(lambda: signing_in.done() or waiting(dsn))
        with pytest.raises(AuthError if first == "password" else NotFound):
            signing_in.result(PATIENCE_S)
        assert other.sessions.list(user) == []


def test_two_who_sign_in_and_end_the_others_leave_one_session(dsn: str) -> None:
    with Atlas.open(dsn) as atlas, ThreadPoolExecutor(1) as threads:
        user = atlas.users.create("ada@example.com")

        def alone() -> str:
            with atlas.transaction() as tx:
                issued = tx.sessions.issue(user)
                tx.sessions.revoke_all(user, except_session=issued.session)
            return issued.token

        with atlas.transaction() as tx:
            issued = tx.sessions.issue(user)
            second = threads.submit(alone)
            until(lambda: second.done() or waiting(dsn))
            tx.sessions.revoke_all(user, except_session=issued.session)
        assert atlas.sessions.verify(second.result(PATIENCE_S)).is_active
        with pytest.raises(InvalidToken):
            atlas.sessions.verify(issued.token)


def test_a_user_who_is_gone_gets_no_password(face: Any) -> None:
    user = face.users.create("ada@example.com")
    face.users.delete(user)
    with pytest.raises(NotFound):
        face.users.set_password(user, PASSWORD)


def test_in_a_transaction_all_of_it_happens_or_none(dsn: str) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com", password=PASSWORD)
        issued = atlas.sessions.issue(user)
        with pytest.raises(ZeroDivisionError), atlas.transaction() as tx:
            tx.users.set_password(user, "a new one altogether")
            assert tx.users.authenticate("ada@example.com", "a new one altogether") is not None
            raise ZeroDivisionError
        assert atlas.users.authenticate("ada@example.com", PASSWORD) is not None
        assert atlas.sessions.verify(issued.token) == issued.session


# The audit.


def test_sign_ins_are_on_record_without_secrets(face: Any, migrated: Any) -> None:
    user = face.users.create("ada@example.com", password=PASSWORD)
    face.users.authenticate("ada@example.com", PASSWORD)
    face.users.authenticate("ada@example.com", "wrong password")
    face.users.set_password(user, "a new one altogether")
    assert events_of(migrated, user.id) == [
        ("user.created", {"plan": "free"}),
        ("user.signed_in", {"rehashed": False}),
        ("user.sign_in_failed", {"reason": "wrong password"}),
        ("user.password_changed", {"sessions_revoked": 0}),
    ]


def test_failures_without_a_user_are_told_apart_by_hash_only(face: Any, migrated: Any) -> None:
    face.users.authenticate("Nobody@example.com ", PASSWORD)
    face.users.authenticate("my password in the wrong field", PASSWORD)
    digest = hashlib.sha256(b"nobody@example.com").hexdigest()
    assert events_of(migrated, NIL) == [
        ("user.sign_in_failed", {"reason": "unknown address", "email_sha256": digest}),
        ("user.sign_in_failed", {"reason": "unknown address"}),
    ]
