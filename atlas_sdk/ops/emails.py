"""The one form of each e-mail address, so that an address has one user however it is typed."""

import re
import unicodedata
from typing import Final

from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted

__all__ = ["LOCAL_BYTES", "find_address", "normal_address"]

#: The most bytes of the part before the "@", and of the domain (RFC 5321, 4.5.3.1).
LOCAL_BYTES: Final = 64
_DOMAIN_BYTES: Final = 255
#: The most bytes of a label of a domain (RFC 1035, 2.3.4).
_LABEL_BYTES: Final = 63
#: The ASCII characters that a domain with other characters may not have (UTS 46, UseSTD3ASCIIRules).
_NO_HOST_NAME: Final = re.compile(r"[\x00-,/:-`{-\x7f]")
#: Full stops that browsers accept between labels (UTS 46). NFKC makes the last one, U+FF0E, a "." by itself.
_DOTS: Final = str.maketrans("\u3002\uff61\uff0e", "...")


def find_address(email: str) -> str | None:
    """Return the stored form of an address, or None for a text that is not an address."""
    try:
        return normal_address(email)
    except InvalidInput:
        return None


def normal_address(email: str) -> str:
    """Return the stored form of an address: NFKC, lower case, and the domain as in the DNS ("xn--…").

    Raises InvalidInput if the text is not an address, if a part is longer than RFC 5321 allows, or if the part before
    the "@" has a character that only stands for ASCII characters, such as the Kelvin sign for K. A mail server may take
    that for another mailbox, so it must not find the user with the ASCII letter.
    """
    if not isinstance(email, str):
        raise InvalidInput(f"email must be a str, not {quoted(email)}", field="email")
    typed = email.strip()
    local, at, domain = typed.rpartition("@")
    has_odd_character = any(character.isspace() or not character.isprintable() for character in typed)
    if not (local and at and domain) or "@" in local or has_odd_character:
        raise InvalidInput(f"{quoted(email)} is not an e-mail address", field="email")
    if _has_stand_in(local):
        message = f"{quoted(email)} has a character before the @ that only stands for others: write those instead"
        raise InvalidInput(message, field="email")
    name, host = _folded(local), domain.lower() if domain.isascii() else _host_name(domain)
    is_too_long = len(name.encode()) > LOCAL_BYTES or len(host) > _DOMAIN_BYTES
    if is_too_long or not all(0 < len(label) <= _LABEL_BYTES for label in host.split(".")):
        raise InvalidInput(
            f"{quoted(email)} is not an e-mail address: a part of it is empty or too long", field="email"
        )
    return f"{name}@{host}"


def _has_stand_in(text: str) -> bool:
    return any(
        not character.isascii() and any(map(str.isascii, unicodedata.normalize("NFKC", character)))
        for character in text
    )


def _folded(text: str) -> str:
    """Return a text in NFKC and lower case. Each step can undo the other, so repeat them until nothing changes."""
    while True:
        # Lower each character by itself: str.lower() writes a final sigma in its own way.
        folded = unicodedata.normalize("NFKC", "".join(map(str.lower, unicodedata.normalize("NFKC", text))))
        if folded == text:
            return folded
        text = folded


def _host_name(domain: str) -> str:
    """Return a domain that is not ASCII as in the DNS: the mapping of UTS 46, then Punycode (RFC 3492).

    Do not use the codec "idna". It follows the older IDNA 2003, which takes "faß.de" for "fass.de", another domain.
    """
    labels = _folded(domain.translate(_DOTS)).split(".")
    if any(_NO_HOST_NAME.search(label) for label in labels):
        raise InvalidInput(f"{quoted(domain)} is not a domain", field="email")
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}" for label in labels)
