"""Keys of session tokens: valid keys, their file, and the times at which a client reads the file again."""

from __future__ import annotations

import base64
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from patience import PATIENCE_S

from atlas_sdk._keyring import Keyring
from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.signing_keys import SigningKeys

SECRET = bytes(range(32))
OTHER = bytes(range(32, 64))


def encoded(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "signing-keys"


def write(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize("secret", [b"", b"x" * 31, "x" * 40, bytearray(40), None])
def test_short_keys_and_texts_are_refused_without_quoting_them(secret: object) -> None:
    for make in (lambda: SigningKeys(secret), lambda: SigningKeys(SECRET, older=[secret])):
        with pytest.raises(InvalidInput) as failure:
            make()
        assert failure.value.field == "signing_keys"
        assert "xxxx" not in str(failure.value)


def test_keys_are_not_shown() -> None:
    keys = SigningKeys(SECRET, older=[OTHER])
    for text in (repr(keys), str(keys), f"{keys}", repr({"keys": [keys]})):
        assert "x00" not in text
        assert encoded(SECRET)[:8] not in text
        assert keys.kid in text


def test_names_come_from_the_keys_and_tell_nothing_else() -> None:
    keys = SigningKeys(SECRET, older=[OTHER])
    assert keys.kids == (SigningKeys(SECRET).kid, SigningKeys(OTHER).kid)
    assert (keys.secret_of(keys.kids[0]), keys.secret_of(keys.kids[1])) == (SECRET, OTHER)
    assert keys.secret_of("") is keys.secret_of("0" * 16) is None
    assert len({*keys.kids, SECRET.hex()[:16], OTHER.hex()[:16]}) == 4


def test_generated_keys_differ() -> None:
    assert len({SigningKeys.generate().kid for _ in range(20)}) == 20


def test_rotation_signs_with_the_new_and_verifies_with_the_old() -> None:
    first = SigningKeys(SECRET)
    second = first.rotated()
    assert second.kids[1:] == first.kids
    third = second.rotated(keep=1)
    assert third.kids[1:] == (second.kid,)
    assert len(third.rotated(keep=0).kids) == len(third.rotated(keep=-1).kids) == 1


def test_a_file_holds_what_was_written_and_is_private(file: Path) -> None:
    keys = SigningKeys(SECRET, older=[OTHER])
    before = os.umask(0)
    try:
        keys.write(file)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert SigningKeys.read(file).kids == keys.kids
    rotated = keys.rotated()
    rotated.write(str(file))
    assert SigningKeys.read(str(file)).kids == rotated.kids
    assert [found.name for found in file.parent.iterdir()] == ["signing-keys"]


def test_a_file_may_have_comments_blank_lines_and_padding(file: Path) -> None:
    padded = base64.urlsafe_b64encode(SECRET).decode()
    write(file, f"# ours\n\n{padded}  # since May\r\n  {encoded(OTHER)}\n")
    assert SigningKeys.read(file).kids == SigningKeys(SECRET, older=[OTHER]).kids


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        (encoded(b"x" * 31), "line 1 is a key of 31 bytes"),
        (f"{encoded(SECRET)}\nhunter2!\n", "line 2 is not base64url"),
        (encoded(SECRET)[:-1] + "\0", "line 1 is not base64url"),
        ("#" * (2**16 + 1), "is larger than 65,536 bytes"),
    ],
)
def test_a_bad_file_is_named_and_not_quoted(file: Path, text: str, sentence: str) -> None:
    with pytest.raises(FileProblem, match=sentence) as failure:
        SigningKeys.read(write(file, text))
    assert failure.value.path == str(file)
    assert "hunter2" not in str(failure.value)
    assert failure.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o777])
def test_a_file_that_others_may_use_is_refused(file: Path, mode: int) -> None:
    with pytest.raises(FileProblem, match=f"mode {mode:04o}.*chmod 600"):
        SigningKeys.read(write(file, encoded(SECRET), mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    write(file, encoded(SECRET))
    os.chown(file, 12345, 12345)
    with pytest.raises(FileProblem, match="belongs to OS user id 12345"):
        SigningKeys.read(file)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, file: Path) -> None:
    with pytest.raises(FileProblem, match="no such file"):
        SigningKeys.read(file)
    with pytest.raises(FileProblem, match="is not a file"):
        SigningKeys.read(tmp_path)
    # Opening a pipe without a writer would wait for ever.
    os.mkfifo(file, 0o600)
    with pytest.raises(FileProblem, match="is not a file"):
        SigningKeys.read(file)
    with pytest.raises(FileProblem, match="cannot be written"):
        SigningKeys(SECRET).write(tmp_path / "nowhere" / "keys")


def test_a_new_file_never_replaces_one(file: Path) -> None:
    assert SigningKeys(SECRET).write_new(file)
    assert not SigningKeys(OTHER).write_new(file)
    assert SigningKeys.read(file).kids == SigningKeys(SECRET).kids
    assert [found.name for found in file.parent.iterdir()] == ["signing-keys"]


def test_many_that_make_the_file_at_once_get_the_same_keys(file: Path) -> None:
    together = Barrier(8)

    def first_use(_: int) -> str:
        ring = Keyring(file=file, makes=True)
        together.wait(PATIENCE_S)
        return ring.load(0.0).kid

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(first_use, range(8)))) == 1


def test_without_keys_the_sentence_says_where_to_give_them() -> None:
    ring = Keyring()
    assert ring.cached(0.0) is None
    with pytest.raises(InvalidInput, match=r"ATLAS_SIGNING_KEYS.*signing_keys=") as failure:
        ring.load(0.0)
    assert failure.value.field == "signing_keys"


def test_given_keys_need_no_file() -> None:
    keys = SigningKeys(SECRET)
    ring = Keyring(keys, file=Path("/nonexistent"))
    assert ring.cached(0.0) is ring.load(0.0) is keys


def test_a_file_is_looked_at_again_after_five_seconds(file: Path) -> None:
    SigningKeys(SECRET).write(file)
    ring = Keyring(file=file)
    assert ring.cached(100.0) is None
    first = ring.load(100.0)
    assert ring.load(101.0) is first, "an unchanged file is not read again"
    SigningKeys(OTHER).write(file)
    assert ring.cached(105.9) is first
    assert ring.cached(106.0) is None
    assert ring.load(106.0).kid == SigningKeys(OTHER).kid
    # A clock may go back, as after a restore of a virtual machine. This must not make the keys valid for longer.
    assert ring.cached(50.0) is None


def test_a_file_that_goes_away_or_opens_up_is_not_trusted_any_longer(file: Path) -> None:
    SigningKeys(SECRET).write(file)
    ring = Keyring(file=file)
    ring.load(0.0)
    file.chmod(0o644)
    with pytest.raises(FileProblem, match="mode 0644"):
        ring.load(10.0)
    file.unlink()
    with pytest.raises(FileProblem, match="no such file"):
        ring.load(20.0)


def test_a_missing_file_is_made_only_for_the_embedded_server(file: Path) -> None:
    with pytest.raises(FileProblem):
        Keyring(file=file).load(0.0)
    assert not file.exists()
    Keyring(file=file, makes=True).load(0.0)
    assert file.stat().st_mode & 0o777 == 0o600


def test_keys_can_be_sent_to_a_worker_process() -> None:
    keys = SigningKeys(SECRET, older=[OTHER])
    assert pickle.loads(pickle.dumps(keys)).kids == keys.kids
