"""Read the settings of a project, `.atlas.toml`: whatever bytes it holds, it costs little and stops nothing else.

The file comes with a cloned repository or from an agent. `tomllib` takes quadratic time and memory for long keys
(24 s and 3.4 GB for 60 KB of `x.x.x…`) and recurses for nested values, so what makes it slow is counted first: outside
strings and comments an honest file has a few dozen brackets, dots and equals signs, and a comma for every glob.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.files.confined import Place, locate
from atlas_sdk.files.globs import check_globs
from atlas_sdk.files.paths import printable, quoted
from atlas_sdk.files.presets import PRESETS
from atlas_sdk.files.problems import noun, problem
from atlas_sdk.files.root import Root

__all__ = ["SETTINGS", "check_presets", "read_settings"]

#: The one file that a project may have for Atlas; it is not needed.
SETTINGS: Final = ".atlas.toml"
_LIMIT_BYTES = 64 * 2**10
#: PostgreSQL holds at most 1 GB in one value, and reading takes several copies of a file in memory.
_HIGHEST_LIMIT_BYTES = 256 * 2**20
_LISTS = ("presets", "include", "exclude")
#: `[atlas]` belongs to `atlas_sdk.config`, which checks it.
_TABLES = ("track", "atlas")
#: How often each sign may stand outside strings and comments.
_MOST_SIGNS = {"[": 64, "{": 64, "=": 64, ".": 64, ",": 1024}
#: Strings and comments, closed or not. A string in three quotes may end with two quotes of its own.
_STRINGS_AND_COMMENTS = re.compile(
    r'''
    """ [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* (?:"{3,5})?
    | \'\'\' [^']* (?: '(?!'') [^']* )* (?:'{3,5})?
    | " [^"\\\n]* (?: \\[^\n] [^"\\\n]* )* "?
    | ' [^'\n]* '?
    | \# [^\n]*
    ''',
    re.VERBOSE | re.DOTALL,
)
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 5
#: A parser's error may quote a key.
_LONGEST_REASON = 120


def read_settings(root: Path | Root) -> dict[str, Any]:
    """Return the fields of `Tracking` that a project's `.atlas.toml` sets; none without one.

    It must be a regular file of at most 64 KiB that belongs to the project's owner, to the caller or to root.
    Raises `InvalidInput` that names the key, `FileProblem` when the file or the project cannot be read.
    """
    content = _content(root)
    if content is None:
        return {}
    # Most projects have no settings, and a hook has few milliseconds.
    import tomllib  # noqa: PLC0415

    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise _no_toml(exc) from exc
    _check_signs(text)
    try:
        settings = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        # Few brackets are left: only a caller who is deep in calls already can see a RecursionError.
        raise _no_toml(exc) from exc
    return _checked(settings)


def check_presets(presets: tuple[str, ...]) -> None:
    """Raise `InvalidInput` for a name that is no preset."""
    for name in presets:
        if name not in PRESETS:
            raise InvalidInput(f"{quoted(name)} is no preset; there are: {', '.join(PRESETS)}", field="presets")


def _content(root: Path | Root) -> bytes | None:
    try:
        with locate(root, SETTINGS, follow=False) as place:
            return _read(place)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise problem("read", SETTINGS, exc) from exc


def _read(place: Place) -> bytes:
    """Read the file in an open folder. All questions are asked of the descriptor, so nothing can be swapped."""
    # Opening a device can have effects, so look first.
    _check_file(os.lstat(place.name, dir_fd=place.folder), place)
    descriptor = os.open(place.name, _FILE, dir_fd=place.folder)
    try:
        for _ in range(_ATTEMPTS):
            before = os.fstat(descriptor)
            _check_file(before, place)
            content = os.pread(descriptor, _LIMIT_BYTES + 1, 0)
            after = os.fstat(descriptor)
            if (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns):
                break
    finally:
        os.close(descriptor)
    if len(content) > _LIMIT_BYTES:
        raise _too_large()
    return content


def _check_file(found: os.stat_result, place: Place) -> None:
    if not stat.S_ISREG(found.st_mode):
        reason = f"{SETTINGS} is {noun(found.st_mode)}; settings are read from a regular file only: replace it by one"
        raise FileProblem(reason, path=SETTINGS)
    if found.st_uid not in {0, os.geteuid(), os.fstat(place.folder).st_uid}:
        # Whoever may write into a shared folder must not decide what others keep.
        reason = f"{SETTINGS} belongs to user {found.st_uid}, who does not own the project: chown it to its owner"
        raise FileProblem(reason, path=SETTINGS)
    if found.st_size > _LIMIT_BYTES:
        raise _too_large()


def _no_toml(error: Exception) -> InvalidInput:
    return InvalidInput(f"{SETTINGS} is not TOML: {_cut(str(error), _LONGEST_REASON)}", field=SETTINGS)


def _too_large() -> InvalidInput:
    return InvalidInput(f"{SETTINGS} is larger than {_LIMIT_BYTES:,} bytes; use * and ** in globs", field=SETTINGS)


def _check_signs(text: str) -> None:
    # As `tomllib` does, so that both see the same lines.
    rest = _STRINGS_AND_COMMENTS.sub("", text.replace("\r\n", "\n"))
    for sign, most in _MOST_SIGNS.items():
        if rest.count(sign) > most:
            raise InvalidInput(
                f"{SETTINGS} has more than {most:,} of the sign {sign} outside strings; "
                "it needs one table [track] with a few lists of globs",
                field=SETTINGS,
            )


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that `[track]` sets; name the key that is wrong."""
    for key in settings:
        if key not in _TABLES:
            raise _wrong(key, f"is not known; the tables are: {', '.join(_TABLES)}")
    track = settings.get("track", {})
    if not isinstance(track, dict):
        raise _wrong("track", "must be a table")
    fields: dict[str, Any] = {}
    for key, value in track.items():
        name = f"track.{key}"
        if key == "limit_bytes":
            # `True` is an `int` in Python, not in TOML.
            if type(value) is not int or not 0 < value <= _HIGHEST_LIMIT_BYTES:
                raise _wrong(name, f"must be a number of bytes from 1 to {_HIGHEST_LIMIT_BYTES}")
            fields[key] = value
        elif key in _LISTS:
            fields[key] = _listed(name, value)
        else:
            raise _wrong(name, f"is not known; there are: {', '.join(_LISTS)}, limit_bytes")
    return fields


def _listed(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(name, "must be a list of strings")
    try:
        (check_presets if name == "track.presets" else check_globs)(tuple(value))
    except InvalidInput as exc:
        raise _wrong(name, str(exc)) from exc
    return tuple(value)


def _wrong(key: str, what: str) -> InvalidInput:
    name = _cut(key, 60)
    return InvalidInput(f"{SETTINGS}: {name}: {what}", field=name)


def _cut(text: str, most: int) -> str:
    return printable(text[:most]) + ("…" if len(text) > most else "")
