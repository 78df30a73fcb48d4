"""Forged tokens, and the keys that show that they are forged, through both clients."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forging import forged, part, refused, unpacked

from atlas_sdk import Atlas, InvalidInput, IssuedSession, SigningKeys, User

pytestmark = pytest.mark.usefixtures("keys")

NIL = uuid.UUID(int=0)


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com")


# Forgeries.


@pytest.fixture
def issued(client: Any, user: User) -> IssuedSession:
    return client.sessions.issue(user)


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "", None, "HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256"]
)
def test_no_other_algorithm_is_believed(client: Any, issued: IssuedSession, keys: SigningKeys, name: Any) -> None:
    secret = keys.secret_of(keys.kid)
    assert secret is not None
    header, payload, signature = issued.token.split(".")
    del header
    unsigned = f"{part({'alg': name, 'kid': keys.kid, 'typ': 'atlas-session+jwt'})}.{payload}"
    digest = "sha512" if name == "HS512" else "sha384" if name == "HS384" else "sha256"
    signed = forged(issued.token, secret, header={"alg": name}, digest=digest)
    for token in (f"{unsigned}.", f"{unsigned}.{signature}", signed):
        assert refused(client, token) in ({"algorithm"} if name else {"algorithm", "malformed"})


def test_another_key_opens_nothing(client: Any, issued: IssuedSession, keys: SigningKeys) -> None:
    stranger = b"k" * 32
    assert refused(client, forged(issued.token, stranger)) == "signature"
    assert refused(client, forged(issued.token, stranger, header={"kid": SigningKeys(stranger).kid})) == "unknown key"
    for kid in ("", "../../dev/null", "0' OR 1=1", keys.kid.upper(), "\0"):
        assert refused(client, forged(issued.token, stranger, header={"kid": kid})) == "unknown key"
    for kid in (None, 5, ["x"], {}):
        assert refused(client, forged(issued.token, stranger, header={"kid": kid})) in {"unknown key", "malformed"}
    # A key inside a token, or at an address in it, is never used.
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(stranger).decode()}
    for extra in ({"jwk": jwk}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example"}):
        assert refused(client, forged(issued.token, stranger, header=extra)) == "signature"


def test_altered_claims_open_nothing(client: Any, issued: IssuedSession) -> None:
    other = client.users.create("bob@example.com")
    theirs = client.sessions.issue(other)
    header, payload, signature = issued.token.split(".")
    claims = unpacked(issued.token)[1]
    for change in (
        {"sub": str(other.id)},
        {"jti": str(theirs.session.id)},
        {"exp": claims["exp"] + 1},
        {"admin": True},
    ):
        assert refused(client, f"{header}.{part(claims | change)}.{signature}") == "signature"
    # Parts of two valid tokens do not make a valid token.
    assert refused(client, f"{header}.{theirs.token.split('.')[1]}.{signature}") == "signature"
    assert refused(client, f"{header}.{payload}.{theirs.token.split('.')[2]}") == "signature"


def test_a_signing_key_alone_makes_no_session(client: Any, issued: IssuedSession, keys: SigningKeys) -> None:
    """With a stolen key one can sign a token that was never issued. The database does not know its session."""
    secret = keys.secret_of(keys.kid)
    assert secret is not None
    bob = client.users.create("bob@example.com")
    for changes in (
        {"sub": str(bob.id)},
        {"jti": str(uuid.uuid4())},
        {"exp": 4102444800},
        {"iat": 0},
        {"sub": str(NIL), "jti": str(NIL)},
        {"role": "admin"},
    ):
        assert refused(client, forged(issued.token, secret, **changes)) == "unknown session"
    for changes in (
        {"sub": "ada@example.com"},
        {"sub": None},
        {"sub": 5},
        {"jti": "x"},
        {"jti": []},
        {"exp": "soon"},
        {"exp": 10**30},
        {"exp": -(10**30)},
        {"exp": None},
        {"exp": 1e400},
    ):
        assert refused(client, forged(issued.token, secret, **changes)) == "malformed"
    # The same key may have signed JWTs of another kind.
    assert refused(client, forged(issued.token, secret, header={"typ": "JWT"})) == "algorithm"
    assert refused(client, forged(issued.token, secret, header={"crit": ["x"], "x": 1})) == "malformed"
    # In another spelling the signature is still right, but the token is not the one that was issued.
    assert refused(client, issued.token + "=") in {"malformed", "unknown session"}
    assert client.sessions.verify(issued.token) == issued.session


def test_whatever_is_no_token_is_refused(client: Any, issued: IssuedSession) -> None:
    token = issued.token
    odd: list[Any] = [
        *("", ".", "..", "...", "a.b.c", "null", "{}", "Bearer " + token, token + ".x", token + "\n", " " + token),
        *(token[:cut] for cut in (1, 20, len(token) // 2, -43, -1)),
        *(token.encode(), None, 5, object(), [token], {"token": token}),
        *(token.replace(".", "\0", 1), "é" + token, "\ud800.x.y", "[" * 2000, "." * 2000),
    ]
    for one in odd:
        assert refused(client, one) in {"malformed", "signature"}, one


def test_a_huge_token_is_refused_before_anything_is_decoded(
    client: Any, issued: IssuedSession, monkeypatch: Any
) -> None:
    import jwt

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    for name in ("decode", "get_unverified_header"):
        monkeypatch.setattr(jwt, name, never)
    header, payload, signature = issued.token.split(".")
    for one in ("x" * 50_000_000, f"{header}.{'A' * 3000}.{signature}", f"{header}.{payload}.{'A' * 3000}"):
        assert refused(client, one) == "malformed"


# Keys.


@pytest.fixture
def clients(dsn: str) -> Iterator[Any]:
    """Yield a function that opens clients with their own keys."""
    opened: list[Atlas] = []

    def open_(keys: SigningKeys) -> Atlas:
        opened.append(Atlas.open(dsn, signing_keys=keys))
        return opened[-1]

    yield open_
    for client in opened:
        client.close()


def test_the_newest_key_signs_and_all_of_them_verify(clients: Any) -> None:
    first = SigningKeys.generate()
    second = first.rotated()
    old, new, reset = clients(first), clients(second), clients(second.rotated(keep=0))
    user = old.users.create("ada@example.com")
    before, after = old.sessions.issue(user), new.sessions.issue(user)
    assert unpacked(before.token)[0]["kid"] == first.kid
    assert unpacked(after.token)[0]["kid"] == second.kid
    assert new.sessions.verify(before.token) == before.session
    assert new.sessions.verify(after.token) == after.session
    assert refused(old, after.token) == "unknown key"
    assert [refused(reset, one.token) for one in (before, after)] == ["unknown key"] * 2
    assert new.sessions.revoke(before.token).id == before.session.id


def test_keys_rotate_under_a_running_client(
    client: Any, user: User, keys: SigningKeys, tmp_path: Path, dsn: str
) -> None:
    before = client.sessions.issue(user)
    rotated = keys.rotated()
    rotated.write(tmp_path / "keys")
    with Atlas.open(dsn) as elsewhere:
        after = elsewhere.sessions.issue(user)
    assert unpacked(after.token)[0]["kid"] == rotated.kid
    assert client.sessions.verify(after.token) == after.session, "an unknown key is looked for at once"
    assert client.sessions.verify(before.token) == before.session
    assert unpacked(client.sessions.issue(user).token)[0]["kid"] == rotated.kid


def test_a_server_by_dsn_has_no_keys_of_its_own(dsn: str, monkeypatch: Any) -> None:
    monkeypatch.delenv("ATLAS_SIGNING_KEYS")
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com")
        for attempt in (lambda: atlas.sessions.issue(user), lambda: atlas.sessions.verify("x.y.z")):
            with pytest.raises(InvalidInput, match="ATLAS_SIGNING_KEYS") as failure:
                attempt()
            assert failure.value.field == "signing_keys"
        assert atlas.sessions.list(user) == []


def test_the_embedded_server_has_keys_of_its_own(embedded: Atlas, atlas_home: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("ATLAS_SIGNING_KEYS")
    file = atlas_home / "signing-keys"
    with Atlas.open(home=atlas_home) as one, Atlas.open(home=atlas_home) as other:
        user = one.users.create(f"{uuid.uuid4().hex}@example.com")
        issued = one.sessions.issue(user)
        assert file.stat().st_mode & 0o777 == 0o600
        assert unpacked(issued.token)[0]["kid"] == SigningKeys.read(file).kid
        assert other.sessions.verify(issued.token) == issued.session


def test_a_key_that_looks_like_a_certificate_is_refused_by_name(clients: Any) -> None:
    atlas = clients(SigningKeys(b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"))
    user = atlas.users.create("ada@example.com")
    with pytest.raises(InvalidInput, match="cannot be used") as failure:
        atlas.sessions.issue(user)
    assert failure.value.field == "signing_keys"
    assert atlas.sessions.list(user) == []
