"""Encrypted connections: the options of the DSN hold, and each failure is a clear error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_adapter import Open
from patience import PATIENCE_S

from atlas_sdk import Atlas, AuthenticationFailed, EncryptionFailed


def test_a_certificate_that_verifies_is_taken(open_client: Open, tls_server: Any) -> None:
    url = tls_server.url(sslmode="verify-full", sslrootcert=str(tls_server.authority))
    health = open_client(url, migrate=True).health()
    assert health.ok
    assert health.encrypted is True


def test_a_socket_of_this_machine_is_not_encrypted(open_client: Open, dsn: str) -> None:
    assert open_client(dsn).health().encrypted is False


@pytest.mark.parametrize(
    ("query", "host", "sentence"),
    [
        ({"sslmode": "verify-full", "sslrootcert": "stranger"}, "localhost", "does not verify"),
        ({"sslmode": "verify-ca", "sslrootcert": "stranger"}, "localhost", "does not verify"),
        ({"sslmode": "verify-full", "sslrootcert": "authority"}, "127.0.0.1", "for another host name"),
        (
            {"sslmode": "verify-full", "sslrootcert": "/nowhere/root.crt"},
            "localhost",
            "no certificate|name its authority",
        ),
        ({"sslmode": "disable"}, "localhost", "refuses this user without TLS"),
    ],
    ids=["stranger", "stranger-ca", "host", "missing", "disabled"],
)
def test_what_is_not_safe_is_refused(
    open_client: Open, tls_server: Any, query: dict[str, str], host: str, sentence: str
) -> None:
    given = {key: str(getattr(tls_server, value, value)) for key, value in query.items()}
    with pytest.raises(EncryptionFailed, match=sentence) as failure:
        open_client(tls_server.url(host=host, **given))
    assert failure.value.exit_code == 5
    assert "\n" not in str(failure.value)
    assert tls_server.password not in str(failure.value)


def test_a_wrong_password_is_no_matter_of_tls(open_client: Open, tls_server: Any) -> None:
    with pytest.raises(AuthenticationFailed) as failure:
        open_client(tls_server.url(password="Wr0ng-one"))
    assert not isinstance(failure.value, EncryptionFailed)
    assert "Wr0ng" not in str(failure.value)


@pytest.fixture
def no_tls() -> Iterator[int]:
    """Yield the port of a server that answers a request for TLS like a PostgreSQL built without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(8)
                    caller.sendall(b"N")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


def test_a_server_without_tls_is_told(open_client: Open, no_tls: int, tmp_path: Path) -> None:
    with pytest.raises(EncryptionFailed, match="offers no TLS"):
        open_client(f"postgresql://ada@127.0.0.1:{no_tls}/atlas?sslmode=require")


def test_the_sentence_names_no_file_of_the_dsn(tls_server: Any) -> None:
    with pytest.raises(EncryptionFailed) as failure:
        Atlas.open(tls_server.url(sslmode="verify-full", sslrootcert="/nowhere/secret-root.crt"))
    assert "secret-root" not in str(failure.value)
