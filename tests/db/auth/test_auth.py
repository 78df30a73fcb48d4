"""Signing in with a password, and the end of an account, through both clients."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from signing_in import CHEAP, PARAMETERS, PASSWORD, Work, events_of, stored_hash

from atlas_sdk import InvalidInput

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")
NIL = "00000000-0000-0000-0000-000000000000"


# Passwords.


def test_the_right_password_signs_in_and_no_other_does(client: Any) -> None:
    ada = client.users.create("ada@example.com", password=PASSWORD)
    bob = client.users.create("bob@example.com", password="another one entirely")
    assert client.users.authenticate(" ADA@Example.com", PASSWORD) == ada
    assert client.users.authenticate("bob@example.com", "another one entirely") == bob
    for wrong in ("", " ", PASSWORD[:-1], PASSWORD + " ", PASSWORD.upper(), "another one entirely", "\0", "x" * 5000):
        assert client.users.authenticate("ada@example.com", wrong) is None
    for unknown in ("nobody@example.com", "", "ada", "a\0b@example.com", "\ud800@example.com", "x" * 5000 + "@x"):
        assert client.users.authenticate(unknown, PASSWORD) is None


def test_a_hash_is_argon2id_with_the_cost_that_is_promised(client: Any, migrated: Any, monkeypatch: Any) -> None:
    monkeypatch.undo()
    user = client.users.create("ada@example.com", password=PASSWORD)
    assert stored_hash(migrated, user).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert client.users.authenticate("ada@example.com", PASSWORD) == user


def test_equal_passwords_have_different_hashes(client: Any, migrated: Any) -> None:
    users = [client.users.create(f"{name}@example.com", password=PASSWORD) for name in ("ada", "bob")]
    assert len({stored_hash(migrated, user) for user in users}) == 2


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("", "at least 8 characters"),
        ("1234567", "at least 8 characters"),
        # NFKC makes 18 letters of the ligature, and seven letters of the next eight.
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
def test_what_is_no_password_is_refused_and_not_quoted(client: Any, password: Any, sentence: str) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    for attempt in (
        lambda: client.users.create("bob@example.com", password=password),
        lambda: client.users.set_password(user, password),
    ):
        with pytest.raises(InvalidInput, match=sentence) as failure:
            attempt()
        assert failure.value.field == "password"
        assert failure.value.__cause__ is failure.value.__context__ is None
        assert "secret" not in str(failure.value)
    assert client.users.by_email("bob@example.com") is None
    assert client.users.authenticate("ada@example.com", PASSWORD) == user


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "é" * 512, "a b\tc\nd\0e f", "密码密码密码密码"])
def test_the_bounds_belong_to_what_is_allowed(client: Any, password: str) -> None:
    user = client.users.create("ada@example.com", password=password)
    assert client.users.authenticate("ada@example.com", password) == user


@pytest.mark.parametrize(
    ("set_as", "typed_as"),
    [("cafe\u0301 crème", "café crème"), ("\uff50\uff41ssword", "password"), ("oﬃce 123", "office 123")],
)
def test_the_same_letters_are_the_same_password(client: Any, set_as: str, typed_as: str) -> None:
    user = client.users.create("ada@example.com", password=set_as)
    assert client.users.authenticate("ada@example.com", typed_as).id == user.id
    client.users.set_password(user, typed_as)
    assert client.users.authenticate("ada@example.com", set_as).id == user.id


def test_nothing_of_a_long_password_is_cut_off(client: Any) -> None:
    client.users.create("ada@example.com", password="x" * 1023 + "y")
    assert client.users.authenticate("ada@example.com", "x" * 1024) is None
    assert client.users.authenticate("ada@example.com", "x" * 1023 + "yz") is None


# Hashes of other programs.


def test_an_argon2_hash_from_elsewhere_signs_in_and_is_renewed(client: Any, migrated: Any) -> None:
    foreign = CHEAP.hash("short")
    user = client.users.create("ada@example.com", password_hash=foreign)
    assert stored_hash(migrated, user) == foreign
    assert client.users.authenticate("ada@example.com", "wrong") is None
    assert stored_hash(migrated, user) == foreign
    assert client.users.authenticate("ada@example.com", "short").id == user.id
    renewed = stored_hash(migrated, user)
    assert renewed.startswith(PARAMETERS)
    assert client.users.authenticate("ada@example.com", "short").id == user.id
    assert stored_hash(migrated, user) == renewed
    signed_in = [meta["rehashed"] for kind, meta in events_of(migrated, user.id) if kind == "user.signed_in"]
    assert signed_in == [True, False]


@pytest.mark.parametrize(
    "foreign",
    [
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk",
        # Hashes with more memory than a sign-in may take, a tag that could be guessed, and a salt that is not base64.
        "$argon2id$v=19$m=4194304,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b0dWRWJTmaaJObG",
        "$argon2id$v=19$m=512,t=1,p=1$c29tZXNhbHQ$Rdescud",
        "$argon2id$v=19$m=512,t=1,p=1$c29tZXNhbHQAA$RdescudvJCsgt3ub+b0dWRWJTmaaJObG",
    ],
)
def test_a_hash_that_cannot_be_verified_is_stored_and_signs_nobody_in(
    client: Any, migrated: Any, work: Work, foreign: str
) -> None:
    user = client.users.create("ada@example.com", password_hash=foreign)
    assert stored_hash(migrated, user) == foreign
    assert client.users.authenticate("ada@example.com", PASSWORD) is None
    assert stored_hash(migrated, user) == foreign
    assert PARAMETERS in work.verified or foreign.startswith("$argon2id$v=19$m=512")
    client.users.set_password(user, PASSWORD)
    assert client.users.authenticate("ada@example.com", PASSWORD).id == user.id


@pytest.mark.parametrize("mistake", ["hunter2hunter2", "", "$", "$2b$", "$2b$12$with space", "$x$" + "y" * 1000, 5])
def test_a_password_given_as_a_hash_is_refused_and_not_quoted(client: Any, mistake: Any) -> None:
    with pytest.raises(InvalidInput, match="password=") as failure:
        client.users.create("ada@example.com", password_hash=mistake)
    assert failure.value.field == "password_hash"
    assert "hunter2" not in str(failure.value)
    with pytest.raises(InvalidInput, match="not both"):
        client.users.create("ada@example.com", password=PASSWORD, password_hash=CHEAP.hash("x"))


# The audit.


def test_sign_ins_are_on_record_without_secrets(client: Any, migrated: Any) -> None:
    user = client.users.create("ada@example.com", password=PASSWORD)
    client.users.authenticate("ada@example.com", PASSWORD)
    client.users.authenticate("ada@example.com", "wrong password")
    client.users.set_password(user, "a new one altogether")
    assert events_of(migrated, user.id) == [
        ("user.created", {"plan": "free"}),
        ("user.signed_in", {"rehashed": False}),
        ("user.sign_in_failed", {"reason": "wrong password"}),
        ("user.password_changed", {"sessions_revoked": 0}),
    ]


def test_failures_without_a_user_are_told_apart_by_hash_only(client: Any, migrated: Any) -> None:
    client.users.authenticate("Nobody@example.com ", PASSWORD)
    client.users.authenticate("my password in the wrong field", PASSWORD)
    digest = hashlib.sha256(b"nobody@example.com").hexdigest()
    assert events_of(migrated, NIL) == [
        ("user.sign_in_failed", {"reason": "unknown address", "email_sha256": digest}),
        ("user.sign_in_failed", {"reason": "unknown address"}),
    ]
