"""Database addresses: read strictly, and shown without their secrets.

If a password has an unescaped "/" or "@", libpq takes it for the end of a part of the URL, and quotes that part in its
error messages. So this module reads an address first. The module refuses a malformed address, and quotes nothing of it.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from atlas_sdk.errors import InvalidInput

__all__ = [
    "check_dsn",
    "libpq_defaults",
    "masked",
    "parsed",
    "place",
    "scrub",
    "scrubbed",
    "with_parts",
    "without_addresses",
    "without_secrets",
]

_MASK: Final = "***"
#: The longest address that is read; real addresses are shorter, even with many hosts and options.
_LIMIT_BYTES: Final = 16_384
_URL: Final = re.compile(r"postgres(?:ql)?://")
#: Schemes of other libraries, which people copy. Errors quote only these: any other text may be a secret.
_FOREIGN: Final = re.compile(r"(?:jdbc:postgresql|postgres(?:ql)?\+\w{1,20}):")
_UNREADABLE: Final = "the DSN cannot be read: write postgresql://user@host:5432/database"
#: Characters that end a part of a URL.
_ESCAPED: Final = 'in a password "/", "@", ":", "?" and "%" are written %2F, %40, %3A, %3F and %25'
#: The parts that are shown. Every other part is masked, also one that a later libpq adds; `options` may set anything.
# fmt: off
_SHOWN: Final = frozenset({
    "service", "user", "passfile", "channel_binding", "connect_timeout", "dbname", "host", "hostaddr", "port",
    "client_encoding", "application_name", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslmode", "sslnegotiation", "sslcompression",
    "sslcert", "sslkey", "sslcertmode", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer",
    "require_auth", "min_protocol_version", "max_protocol_version", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "gssencmode", "krbsrvname", "gsslib", "gssdelegation", "target_session_attrs",
    "load_balance_hosts", "replication", "oauth_issuer", "oauth_client_id", "oauth_scope",
})
# fmt: on
#: The parts that messages, prompts and logs show.
_TOLD: Final = ("host", "port", "user", "dbname")
#: A secret of fewer letters is a part of many words, so only whole words are masked.
_SHORT: Final = 4
#: The message of a server that refuses a setting in `options`, which come from the DSN or a service file. The message
#: quotes the value of the setting, so everything after the first part is masked.
_QUOTED: Final = re.compile(
    r"(FATAL:\s+(?:invalid value for parameter|unrecognized configuration parameter"
    r"|invalid command-line argument|-c )).*",
    re.DOTALL,
)
#: An address up to the end of the word, because all of it may belong to a password that was not escaped.
_ADDRESS: Final = re.compile(r"(\w[\w+.-]{0,40}://)\S+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def parsed(dsn: str) -> dict[str, str]:
    """Return the parts of a URL or a connection string by libpq's names. Raises InvalidInput, which quotes nothing."""
    # Import psycopg here: the help of a command must not wait for it.
    import psycopg  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if len(dsn) > _LIMIT_BYTES:
        raise InvalidInput(f"the DSN is longer than {_LIMIT_BYTES:,} characters", field="dsn")
    if (foreign := _FOREIGN.match(dsn)) is not None:
        raise InvalidInput(f"{_UNREADABLE}, with postgresql: instead of {foreign[0]}", field="dsn")
    parts: dict[str, str] | None = None
    with suppress(psycopg.Error, ValueError):
        parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    if parts is None:
        # Raise outside of the handler, so that libpq's error is not chained: it quotes the text that it cannot read.
        raise InvalidInput(_UNREADABLE, field="dsn")
    wrong = (
        (_URL.match(dsn) is not None and _is_torn(dsn, parts))
        # The second "@" of a login becomes a part of the host; a first one is an abstract socket.
        or any("@" in host[1:] for host in parts.get("host", "").split(","))
        or re.fullmatch(r"[\d,]*", parts.get("port", "")) is None
        or any("://" in parts.get(key, "") for key in _TOLD)
        or any(_CONTROL.search(value) for key, value in parts.items() if key in _SHOWN)
    )
    if wrong:
        raise InvalidInput(f"{_UNREADABLE}; {_ESCAPED}", field="dsn")
    return parts


def _is_torn(url: str, parts: dict[str, str]) -> bool:
    """Return whether libpq has split a URL at the wrong characters."""
    rest = url.partition("://")[2]
    login, at, _ = rest.partition("@")
    if not at or "/" in login:
        login = ""
    path = rest.partition("?")[0].partition("/")[2]
    # An "@" behind the first slash was in the password; so was a "?" that stands before the first "@".
    return "@" in path or "?" in login.partition(":")[0] or (":" in parts.get("user", "") and "password" not in parts)


def check_dsn(dsn: str) -> None:
    """Raise InvalidInput for a text that is no DSN. The error quotes nothing, because any part may be the password."""
    parsed(dsn)


def place(dsn: str) -> str:
    """Return the user and the place of a database without secrets: "ada@db.example:5432/atlas"."""
    try:
        parts = parsed(dsn)
    except InvalidInput:
        return "the given address"
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    port = f":{parts['port']}" if parts.get("port", "").strip(",") else ""
    user = f"{parts['user']}@" if "user" in parts else ""
    return f"{user}{host}{port}/{parts.get('dbname', '')}"


def masked(dsn: str) -> str:
    """Return a DSN with `***` for each secret, in the same form; for a malformed DSN, return only the scheme.

    A DSN without secrets is not changed.
    """
    scheme = _URL.match(dsn)
    try:
        parts = parsed(dsn)
    except InvalidInput:
        return f"{scheme[0] if scheme else ''}{_MASK}"
    if parts.keys() <= _SHOWN and _CONTROL.search(dsn) is None:
        return dsn
    shown = {key: value if key in _SHOWN else _MASK for key, value in parts.items()}
    if scheme is not None:
        return _url(scheme[0], shown)
    return with_parts("", **shown)


def with_parts(dsn: str, **parts: str | int | None) -> str:
    """Return a DSN with these parts instead of its own, as a connection string."""
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415  # see `parsed`

    return make_conninfo(dsn, **parts)


def libpq_defaults() -> dict[str, str]:
    """Return the parts that libpq reads from its own environment variables if a DSN does not have them."""
    from psycopg import pq  # noqa: PLC0415  # see `parsed`

    return {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}


def without_secrets(parts: dict[str, str]) -> dict[str, str]:
    """Return the parts that may be shown."""
    return {key: value for key, value in parts.items() if key in _SHOWN}


def without_addresses(text: str) -> str:
    """Return a text, such as a wrong command line, in which each URL is masked except for its scheme."""
    return _ADDRESS.sub(rf"\1{_MASK}", text)


def _url(scheme: str, parts: dict[str, str]) -> str:
    login = ""
    if "user" in parts:
        login = quote(parts.pop("user"), safe="")
        if "password" in parts:
            login += f":{parts.pop('password')}"
        login += "@"
    hosts = parts.get("host", "").split(",")
    ports = parts.get("port", "").split(",") if "port" in parts else [""] * len(hosts)
    authority = ""
    # Put a socket's folder, an IPv6 zone, and one port for all hosts into the query.
    if len(ports) == len(hosts) and all(re.fullmatch(r"[\w.:-]+", host) for host in hosts):
        authority = ",".join(
            (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
            for host, port in zip(hosts, ports, strict=True)
        )
        parts = {key: value for key, value in parts.items() if key not in {"host", "port"}}
    name = f"/{quote(parts.pop('dbname'), safe='')}" if "dbname" in parts else ""
    query = "&".join(f"{key}={quote(value, safe='*,')}" for key, value in parts.items())
    return f"{scheme}{login}{authority}{name}{'?' if query else ''}{query}"


def _secrets(dsn: str) -> Iterator[str]:
    try:
        parts = parsed(dsn)
    except InvalidInput:
        return
    for key, value in parts.items():
        if key in _SHOWN:
            continue
        pieces = {value, quote(value), quote(value, safe="")}
        if key == "options":
            # A server quotes the setting that it refuses, one at a time.
            pieces |= {piece for word in value.split() for piece in (word, word.partition("=")[2])}
            pieces -= {"-c"}
        yield from (piece for piece in pieces if piece)


def scrubbed(text: str, dsn: str) -> str:
    """Return a text of libpq or of the server with `***` for each secret of the DSN."""
    for secret in sorted(set(_secrets(dsn)), key=len, reverse=True):
        if len(secret) >= _SHORT:
            text = text.replace(secret, _MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return _QUOTED.sub(rf"\1 {_MASK}", text)


def scrub(error: BaseException, dsn: str) -> None:
    """Mask the secrets of the DSN in the messages of an error and of all its causes.

    The causes stay in the chain, so a traceback and a log show them.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.args = tuple(scrubbed(arg, dsn) if isinstance(arg, str) else arg for arg in one.args)
        if hasattr(one, "__notes__"):
            one.__notes__ = [scrubbed(note, dsn) for note in one.__notes__]
        if hasattr(one, "_pgconn"):
            # psycopg's errors keep all parameters of the connection.
            one._pgconn = None  # noqa: SLF001  # there is no public way to drop it
        waiting += [one.__cause__, one.__context__]
