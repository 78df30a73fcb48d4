"""Make values safe and plain to show: no hidden characters, a bounded length, no exponents."""

import re
import unicodedata
from decimal import Decimal
from typing import Final

__all__ = ["cut", "digits", "named", "printable", "quoted", "some", "visible"]

#: The longest name in a sentence. Nobody reads a longer one to its end.
_NAME_LETTERS: Final = 200
#: The most names in one sentence.
_NAMES: Final = 5
#: The longest number in a sentence.
_NUMBER_LETTERS: Final = 40
_SHORT: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: `surrogateescape` keeps byte 0xNN as U+DCNN (PEP 383).
_LOWEST_BYTE, _HIGHEST_BYTE = 0xDC80, 0xDCFF
_LAST_ASCII, _LAST_OF_FOUR_DIGITS = 0x7F, 0xFFFF
#: Characters that a terminal obeys, that it does not show, or that reorder what it shows: C0, C1, line ends, bytes that
#: are not UTF-8, and Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt, 17.0) with the annotations.
#: Tags (U+E0000) and variation selectors can spell out whole sentences that only a program reads.
_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: This character asks for the coloured form of the sign before it. Most emoji use it.
_EMOJI_FORM: Final = "\ufe0f"


def visible(text: str, *, keep: str = "") -> str:
    r"""Return a text with escapes for the characters that a terminal obeys, does not show, or uses to reorder text.

    Right-to-left overrides, zero-width characters, tags, variation selectors and control characters become `\u202e` and
    the like. The characters of `keep` stay. Backslashes stay too, so the result cannot be converted back.
    """

    def shown(found: re.Match[str]) -> str:
        letter, at = found[0], found.start()
        if letter in keep or (letter == _EMOJI_FORM and at > 0 and unicodedata.category(text[at - 1]) == "So"):
            return letter
        return _escape(letter)

    return _HIDDEN.sub(shown, text)


def cut(text: str, letters: int = _NAME_LETTERS) -> str:
    """Return the text; if it has more than `letters` letters, shorten it with an ellipsis in the middle."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[len(text) - tail :]}"


def digits(amount: Decimal | int | str) -> str:
    """Return a number for a sentence, without an exponent if that is short: str() writes a billionth as 1E-9."""
    number = Decimal(amount)
    is_short = number.is_finite() and abs(number.adjusted()) < _NUMBER_LETTERS
    return cut(format(number, "f" if is_short else "E"), _NUMBER_LETTERS)


def quoted(value: object) -> str:
    """Return a value for a sentence: quoted, on one line, cut in the middle, and without hidden characters."""
    # Cut the text first, so that a text of a megabyte takes no time.
    return visible(cut(repr(cut(value) if isinstance(value, str) else value)))


def printable(path: str) -> str:
    r"""Return a path that is safe on one line of a terminal.

    Control characters, line ends, invisible and direction-changing characters, bytes that are not UTF-8, and
    backslashes become escapes. Two paths never look the same because of an escape.
    """
    if path.isprintable() and "\\" not in path and _HIDDEN.search(path) is None:
        return path
    return "".join(letter if _is_plain(letter) else _escape(letter) for letter in path)


def named(text: str) -> str:
    """Return a name for a sentence: as `printable` returns it, and cut in the middle if it has over 200 letters."""
    # Cut the name first, so that a name of a megabyte takes no time.
    return cut(printable(cut(text)))


def _is_plain(letter: str) -> bool:
    return letter.isprintable() and letter != "\\" and _HIDDEN.match(letter) is None


def _escape(letter: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    code = ord(letter)
    if _LOWEST_BYTE <= code <= _HIGHEST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    if code <= _LAST_ASCII:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LAST_OF_FOUR_DIGITS else f"\\U{code:08x}"


def some(names: list[str]) -> str:
    """Return the first few names and the number of the others."""
    rest = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {rest} more" if rest > 0 else "")
