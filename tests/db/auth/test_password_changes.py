"""A change of a password ends sessions, also those that are being issued."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from guard_adapter import until, waiting
from patience import PATIENCE_S
from signing_in import CHEAP, PASSWORD, events_of, stored_hash

from atlas_sdk import Atlas, AuthError, InvalidToken, NotFound
from atlas_sdk.ops import passwords

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")


def test_a_password_changed_while_the_old_one_is_compared_does_not_sign_in(
    client: Any, dsn: str, migrated: Any, monkeypatch: Any
) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    real = passwords.matches

    def meanwhile(stored: str | None, password: bytes | None) -> bool:
        answer = real(stored, password)
        with Atlas.open(dsn) as other:
            other.users.set_password(user, "a new one altogether")
        return answer

    monkeypatch.setattr(passwords, "matches", meanwhile)
    assert client.users.authenticate("ada@example.com", PASSWORD) is None
    assert events_of(migrated, user.id)[-1] == ("user.sign_in_failed", {"reason": "changed meanwhile"})


def test_two_who_sign_in_while_the_hash_is_renewed_both_do(
    client: Any, dsn: str, migrated: Any, monkeypatch: Any
) -> None:
    user = client.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
    real = passwords.matches

    def meanwhile(stored: str | None, password: bytes | None) -> bool:
        monkeypatch.setattr(passwords, "matches", real)
        with Atlas.open(dsn) as other:
            assert other.users.authenticate("ada@example.com", PASSWORD) is not None
        return real(stored, password)

    monkeypatch.setattr(passwords, "matches", meanwhile)
    assert client.users.authenticate("ada@example.com", PASSWORD).id == user.id
    assert [kind for kind, _ in events_of(migrated, user.id)] == ["user.created", *["user.signed_in"] * 2]


def test_a_password_set_while_an_old_hash_is_renewed_stays(client: Any, dsn: str, monkeypatch: Any) -> None:
    user = client.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
    real = passwords.refreshed

    def meanwhile(stored: str, password: bytes) -> str | None:
        answer = real(stored, password)
        assert answer is not None
        with Atlas.open(dsn) as other:
            other.users.set_password(user, "a new one altogether")
        return answer

    monkeypatch.setattr(passwords, "refreshed", meanwhile)
    assert client.users.authenticate("ada@example.com", PASSWORD) is None
    monkeypatch.setattr(passwords, "refreshed", real)
    assert client.users.authenticate("ada@example.com", "a new one altogether").id == user.id
    assert client.users.authenticate("ada@example.com", PASSWORD) is None


# Changing a password.


def test_a_new_password_replaces_the_old_one_and_ends_the_sessions(client: Any) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    other = client.users.create("bob@example.com")
    here, there, foreign = (client.sessions.issue(who) for who in (user, user, other))
    assert client.users.set_password(user, "a new one altogether", keep=here.session) == 1
    assert client.users.authenticate("ada@example.com", PASSWORD) is None
    assert client.users.authenticate("ada@example.com", "a new one altogether").id == user.id
    assert client.sessions.verify(here.token).id == here.session.id
    assert client.sessions.verify(foreign.token).id == foreign.session.id
    with pytest.raises(InvalidToken):
        client.sessions.verify(there.token)
    # A session of another user cannot be kept.
    assert client.users.set_password(user, "yet another one", keep=foreign.session) == 1
    with pytest.raises(InvalidToken):
        client.sessions.verify(here.token)


def test_who_signed_in_by_the_old_password_gets_no_session(client: Any, migrated: Any) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    by_the_old_one = client.users.authenticate("ada@example.com", PASSWORD)
    assert client.sessions.issue(by_the_old_one).session.is_active
    assert client.users.set_password(user, "a new one altogether") == 1
    for stale in (by_the_old_one, user):
        with pytest.raises(AuthError, match="authenticate again") as failure:
            client.sessions.issue(stale)
        assert not isinstance(failure.value, InvalidToken)
    assert client.sessions.list(user) == []
    assert [kind for kind, _ in events_of(migrated, user.id)].count("session.issued") == 1
    by_the_new_one = client.users.authenticate("ada@example.com", "a new one altogether")
    for fresh in (by_the_new_one, client.users.get(user.id), client.users.update(user, name="Ada")):
        assert client.sessions.issue(fresh).session.is_active


def test_the_first_password_is_a_change_as_well(client: Any) -> None:
    user = client.users.create("ada@example.com")
    assert user.password_changed_at is None
    assert client.sessions.issue(user).session.is_active
    client.users.set_password(user, PASSWORD)
    with pytest.raises(AuthError):
        client.sessions.issue(user)
    assert client.sessions.issue(client.users.authenticate("ada@example.com", PASSWORD)).session.is_active


def test_a_renewed_hash_is_no_new_password(client: Any, migrated: Any) -> None:
    foreign = CHEAP.hash(PASSWORD)
    user = client.users.create("ada@example.com", password_hash=foreign)
    assert client.users.authenticate("ada@example.com", PASSWORD).id == user.id
    assert stored_hash(migrated, user) != foreign
    assert client.sessions.issue(user).session.is_active
    assert client.users.get(user.id).password_changed_at == user.password_changed_at is not None


def test_every_change_of_a_password_has_a_moment_of_its_own(client: Any, migrated: Any) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    # Make it look as if the server's clock had been a day ahead.
    ahead = "UPDATE users SET password_changed_at = now() + interval '1 day' RETURNING password_changed_at"
    ((changed_at,),) = migrated.execute(ahead).fetchall()
    before = client.users.get(user.id)
    client.users.set_password(user, "a new one altogether")
    assert client.users.get(user.id).password_changed_at > changed_at
    with pytest.raises(AuthError):
        client.sessions.issue(before)


@pytest.mark.parametrize("how", ["password", "revoked"])
def test_a_session_that_is_being_issued_ends_with_all_others(client: Any, dsn: str, how: str) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    with ThreadPoolExecutor(1) as threads, Atlas.open(dsn) as other:
        with other.transaction() as signing_in:
            token = signing_in.sessions.issue(user).token
            if how == "password":
                ending = threads.submit(client.users.set_password, user, "a new one altogether")
            else:
                ending = threads.submit(client.sessions.revoke_all, user)
            until(lambda: ending.done() or waiting(dsn))
        assert ending.result(PATIENCE_S) == 1
        with pytest.raises(InvalidToken):
            other.sessions.verify(token)


@pytest.mark.parametrize("first", ["password", "deletion"])
def test_a_sign_in_waits_for_a_change_that_is_being_made(client: Any, dsn: str, first: str) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    with ThreadPoolExecutor(1) as threads, Atlas.open(dsn) as other:
        with other.transaction() as changing:
            if first == "password":
                changing.users.set_password(user, "a new one altogether")
            else:
                changing.users.delete(user)
            signing_in = threads.submit(client.sessions.issue, user)
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


def test_a_user_who_is_gone_gets_no_password(client: Any) -> None:
    user = client.users.create("ada@example.com")
    client.users.delete(user)
    with pytest.raises(NotFound):
        client.users.set_password(user, PASSWORD)


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
