"""Read the settings of a project from `.atlas.toml`.

The file is untrusted, since it comes with a cloned repository or from an agent. Reading the file takes little time,
whatever it contains. An error in the file affects only the project of the file.
"""

import os
import pwd
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.files.globs import check_globs
from atlas_sdk.files.paths import real_path
from atlas_sdk.files.presets import PRESETS
from atlas_sdk.files.problems import noun, problem
from atlas_sdk.files.root import Root
from atlas_sdk.files.safe_open import Place, locate
from atlas_sdk.files.toml import LIMIT_BYTES, parse_toml
from atlas_sdk.text import printable, quoted

__all__ = ["SETTINGS", "check_presets", "is_home", "read_settings"]

#: The settings file of a project, which is optional.
SETTINGS: Final = ".atlas.toml"
#: The highest value of `limit_bytes`. PostgreSQL stores at most 1 GB in one value, and reading a file needs several
#: copies of the content in memory.
_HIGHEST_LIMIT_BYTES = 256 * 2**20
_LISTS = ("presets", "include", "exclude")
_SWITCHES = ("nested", "user")
#: The shells of accounts that nobody logs in to; the home of such an account may be a project.
_NO_SHELLS = ("/nologin", "/false", "/sync")
#: The tables of the file. `atlas_sdk.config` reads and checks `[atlas]`.
_TABLES = ("track", "atlas")
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 5


def read_settings(root: Path | Root) -> dict[str, Any]:
    """Return the fields of `Tracking` that a project's `.atlas.toml` sets; an empty dict without the file.

    The file must be a regular file of at most 64 KiB that belongs to the project's owner, to the caller or to root.
    Raises `InvalidInput` that names the wrong key, `FileProblem` when the file or the project cannot be read.
    """
    content = _content(root)
    if content is None:
        return {}
    return _checked(parse_toml(content, name=SETTINGS))


def is_home(folder: Path) -> bool:
    """Return whether a folder is a home: the one of this process, or of the person that owns the folder.

    A watcher may run as another account than the person, or without `HOME`.
    """
    try:
        path = real_path(folder)
        if path == real_path(Path.home()):
            return True
        home = _home_of(os.stat(path).st_uid)  # noqa: PTH116 - the path is text here
    except OSError:
        return False
    return home is not None and path == real_path(home)


@lru_cache(maxsize=64)
def _home_of(user: int) -> str | None:
    try:
        account = pwd.getpwuid(user)
    except KeyError:
        return None
    return None if account.pw_shell.endswith(_NO_SHELLS) else account.pw_dir


def check_presets(presets: tuple[str, ...]) -> None:
    """Raise `InvalidInput` for an unknown preset."""
    for name in presets:
        if name not in PRESETS:
            known = ", ".join(PRESETS)
            raise InvalidInput(f"{quoted(name[:40])} is not a preset; presets are {known}", field="presets")


def _content(root: Path | Root) -> bytes | None:
    try:
        with locate(root, SETTINGS, follow=False) as place:
            return _read(place)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise problem("read", SETTINGS, exc) from exc


def _read(place: Place) -> bytes:
    """Read the file in an open folder. All checks use the open descriptor, so a swap of the file has no effect."""
    # Check before opening, because opening a device can have effects.
    _check_file(os.lstat(place.name, dir_fd=place.folder), place)
    descriptor = os.open(place.name, _FILE, dir_fd=place.folder)
    try:
        for _ in range(_ATTEMPTS):
            before = os.fstat(descriptor)
            _check_file(before, place)
            content = os.pread(descriptor, LIMIT_BYTES + 1, 0)
            after = os.fstat(descriptor)
            if (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns):
                break
    finally:
        os.close(descriptor)
    if len(content) > LIMIT_BYTES:
        raise _too_large()
    return content


def _check_file(found: os.stat_result, place: Place) -> None:
    if not stat.S_ISREG(found.st_mode):
        reason = f"{SETTINGS} is {noun(found.st_mode)}; settings are read from a regular file only: replace it by one"
        raise FileProblem(reason, path=SETTINGS)
    if found.st_uid not in {0, os.geteuid(), os.fstat(place.folder).st_uid}:
        # A user who may write to a shared folder must not decide which files other users keep.
        reason = f"{SETTINGS} belongs to user {found.st_uid}, who does not own the project: chown it to its owner"
        raise FileProblem(reason, path=SETTINGS)
    if found.st_size > LIMIT_BYTES:
        raise _too_large()


def _too_large() -> InvalidInput:
    return InvalidInput(f"{SETTINGS} is larger than {LIMIT_BYTES:,} bytes; use * and ** in globs", field=SETTINGS)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that `[track]` sets. Raises `InvalidInput` that names the wrong key."""
    for key in settings:
        if key not in _TABLES:
            raise _wrong(key, f"is not known; the tables are {', '.join(_TABLES)}")
    track = settings.get("track", {})
    if not isinstance(track, dict):
        raise _wrong("track", "must be a table")
    fields: dict[str, Any] = {}
    for key, value in track.items():
        name = f"track.{key}"
        if key == "limit_bytes":
            # In Python `True` is an `int`; in TOML it is not.
            if type(value) is not int or not 0 < value <= _HIGHEST_LIMIT_BYTES:
                raise _wrong(name, f"must be a number of bytes from 1 to {_HIGHEST_LIMIT_BYTES}")
            fields[key] = value
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                raise _wrong(name, "must be true or false")
            fields[key] = value
        elif key in _LISTS:
            fields[key] = _listed(name, value)
        else:
            raise _wrong(name, f"is not known; the keys are {', '.join((*_LISTS, *_SWITCHES))}, limit_bytes")
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
