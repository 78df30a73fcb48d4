"""Database addresses as they may be shown: without their secrets."""

import re
from urllib.parse import unquote

__all__ = ["masked"]

_MASK = "***"
_URL = re.compile(r"\w[\w+.-]*://")
#: In a connection string a value ends where the next keyword begins: a password with a space in it was not quoted.
_SECRET_PARAMETER = re.compile(
    r"(?i)\b((?:ssl)?password)(\s*=\s*)('(?:[^'\\]|\\.)*'|'.*|[^\s&'](?:[^\s&]|[^\S\r\n]+(?!\w+\s*=)\S)*)"
)


def masked(given: str) -> str:
    """Return a URL or a connection string without its passwords; of one that is malformed rather too little.

    A password that was not percent-encoded is taken as far as it may reach.
    """
    if _URL.match(given) is None:
        return _SECRET_PARAMETER.sub(rf"\1\2{_MASK}", given)
    scheme, _, rest = given.partition("://")
    # By hand: urlunsplit turns an empty host, which is a socket, into no host at all.
    login, place = _parted(rest)
    name, colon, _ = login.partition(":")
    head, question, query = place.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    # The name of a parameter may be escaped letter by letter.
    shown = (
        f"{key}={_MASK}" if "password" in unquote(key).lower() else f"{key}{equals}{value}"
        for key, equals, value in pairs
    )
    at = "@" if len(login) < len(rest) - len(place) else ""
    return f"{scheme}://{name}{colon}{_MASK if colon else ''}{at}{head}{question}{'&'.join(shown)}"


def _parted(rest: str) -> tuple[str, str]:
    """Return what stands before and after the "@" that ends the login; as libpq, but for slashes in passwords."""
    first = re.search(r"[@/]", rest)
    if first is None:
        return "", rest
    query = rest.find("?", first.start() if first[0] == "@" else 0)
    end = len(rest) if query < 0 else query
    at = rest.rfind("@", 0, end)
    return (rest[:at], rest[at + 1 :]) if at >= 0 else ("", rest)
