"""Settings, by precedence: flag, `ATLAS_*`, the project's `.atlas.toml`, the user's `config.toml`, default.

Both files have the settings in the table `[atlas]`::

    [atlas]
    database_url = "postgresql://ada@db.example/atlas"
    color = "never"

One exception: the flag for the home selects the embedded database in that home, even if another setting names a server.

A project's file may come with a cloned repository, so it must not decide where memory is stored or for which user: only
its `color` and `query_log` count. The file counts only if it is a regular file that belongs to the caller or root, and
no symlink. The search for the file goes upwards. It ends at a folder that belongs to another user, or in which
everybody may write, such as /tmp.
"""

import logging
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import platformdirs
from attrs import field, fields, frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.files.toml import LIMIT_BYTES, parse_toml
from atlas_sdk.text import named, quoted

__all__ = ["Settings", "database_url", "expanded", "home_folder", "load_settings", "signing_keys_file", "user_file"]

_log = logging.getLogger(__name__)

_APP: Final = "atlasengine"
_PREFIX: Final = "ATLAS_"
_COLORS: Final = ("auto", "always", "never")
_TABLE: Final = "atlas"
#: The file of a project; its table `[track]` is read by `atlas_sdk.files.Tracking`.
_PROJECT_FILE: Final = ".atlas.toml"
_PROJECT_TABLES: Final = frozenset({_TABLE, "track"})
#: The settings that a project's file may give: how output looks, not where data goes.
_PROJECT_KEYS: Final = frozenset({"color", "query_log"})
#: The settings whose values in the files are not text, with their types.
_TYPES: Final[Mapping[str, type]] = {
    "query_log": bool,
    "maintenance": bool,
    "keep_auto_days": int,
    "keep_stopped_previews_days": int,
    "keep_events_days": int,
}
#: The words for true and false in flags and variables, in any case.
_TRUTH: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
_MUST_BE: Final = {bool: "must be true or false", int: "must be a whole number", str: "must be a string"}
#: The most days for which data may be kept: a century.
_DAYS_MAX: Final = 36_500


def database_url() -> str | None:
    """Return the DSN in ATLAS_DATABASE_URL; None if the variable is empty or not set."""
    return os.environ.get("ATLAS_DATABASE_URL") or None


def home_folder() -> Path:
    """Return the folder of the embedded database, the journal and the state: ATLAS_HOME, else the user's data folder.

    The path is absolute. A relative ATLAS_HOME is relative to the current folder, as a path on the command line is. A
    relative XDG_DATA_HOME is ignored, as the XDG Base Directory Specification requires. Raises InvalidInput if the user
    has no folder.
    """
    given = os.environ.get("ATLAS_HOME")
    if given:
        return expanded(given, field="ATLAS_HOME")
    try:
        found = Path(platformdirs.user_data_path(_APP, appauthor=False))
    except RuntimeError:
        found = Path()  # there is neither HOME nor an account; older releases of platformdirs return a "~" instead
    return found if found.is_absolute() else expanded(f"~/.local/share/{_APP}")


def expanded(folder: str | os.PathLike[str], *, field: str = "home") -> Path:
    """Return a folder as an absolute path, with "~" replaced by the user's folder.

    Raises InvalidInput if the user has no folder, or if the name is empty or contains a NUL.
    """
    given = os.fspath(folder)
    if not given or "\0" in given:
        raise InvalidInput(f"{field} {given!r} is no folder; give a path", field=field)
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as exc:
        raise InvalidInput(
            f"{field} {given!r} begins with the folder of a user who has none; set ATLAS_HOME to a folder", field=field
        ) from exc


def user_file() -> Path:
    """Return the path of the user's own `config.toml`, which may not exist."""
    return Path(platformdirs.user_config_path(_APP, appauthor=False)) / "config.toml"


def signing_keys_file() -> Path | None:
    """Return the path of the file of signing keys, from ATLAS_SIGNING_KEYS; None if the variable is not set."""
    given = os.environ.get("ATLAS_SIGNING_KEYS")
    return Path(given).expanduser() if given else None


def _color(value: str) -> str:
    if value not in _COLORS:
        raise InvalidInput(f"color is auto, always or never; not {quoted(value)}", field="color")
    return value


def _days(value: int | str) -> int:
    days = int(value)
    if not 0 <= days <= _DAYS_MAX:
        raise InvalidInput(f"days are from 0 to {_DAYS_MAX:,}; not {value!r}", field="days")
    return days


def _given(value: str | None) -> str | None:
    """Return None, which means "not given", for an empty text, such as that of an empty variable."""
    return value or None


@frozen(kw_only=True)
class Settings:
    """The settings of the command line and of the watcher."""

    #: The DSN of the server; None for the embedded server.
    database_url: str | None = field(default=None, converter=_given, repr=lambda url: "None" if url is None else "'…'")
    #: The home; None for `home_folder()`.
    home: str | None = field(default=None, converter=_given)
    #: The e-mail address of the user to act as, on a server by DSN; None for the user of the login name.
    user: str | None = field(default=None, converter=_given)
    #: Colours of the output: "auto" (on a terminal, unless NO_COLOR is set), "always" or "never".
    color: str = field(default="auto", converter=_color)
    #: True to log every statement's name, time and number of rows.
    query_log: bool = False
    #: True if the watcher runs the maintenance of its database once a day, see docs/maintenance.md.
    maintenance: bool = True
    #: The days for which maintenance keeps the watcher's versions, stopped previews, and events.
    keep_auto_days: int = field(default=30, converter=_days)
    keep_stopped_previews_days: int = field(default=7, converter=_days)
    keep_events_days: int = field(default=365, converter=_days)

    @property
    def folder(self) -> Path:
        """The home: the folder of the embedded database and of the state."""
        return home_folder() if self.home is None else expanded(self.home)


def load_settings(project: Path | None = None, **flags: str | bool | None) -> Settings:
    """Read the settings from all sources. A flag of None counts as not given.

    `project` is a folder in a project; without `project`, no file of a project is read.

    The flag `home` without the flag `database_url` asks for the embedded database of that folder. Then a server in the
    environment or a file is ignored: a user who gives a folder must not reach the database of a whole platform. Raises
    InvalidInput, whose message names the file, or the variable, and the key.
    """
    values = dict(_File(user_file(), tables=frozenset({_TABLE})).settings())
    if project is not None and (found := _project_file(project)) is not None:
        values |= _File(found, tables=_PROJECT_TABLES, allowed=_PROJECT_KEYS).settings()
    # Collect the text of each setting, with the name that an error gives it. A variable that a flag replaces is not
    # checked.
    given = {
        attribute.name: (variable, os.environ[variable])
        for attribute in fields(Settings)
        if (variable := _PREFIX + attribute.name.upper()) in os.environ
    }
    given |= {key: (key, str(value)) for key, value in flags.items() if value is not None}
    if flags.get("home") and flags.get("database_url") is None:
        given["database_url"] = ("database_url", "")
    return Settings(**values | {key: _parsed(key, text, name=name) for key, (name, text) in given.items()})


def _parsed(key: str, text: str, *, name: str) -> str | bool | int:
    """Return the value of a flag or variable in the type of its setting. Raises InvalidInput, which shows the name."""
    kind = _TYPES.get(key, str)
    if kind is int:
        with suppress(ValueError, InvalidInput):
            return _days(text)
        raise InvalidInput(f"{name} is a number of days, 0 to {_DAYS_MAX:,}; not {quoted(text)}", field=name)
    if kind is bool:
        if (found := _TRUTH.get(text.lower())) is not None:
            return found
        raise InvalidInput(f"{name} is true or false; not {quoted(text)}", field=name)
    if key == "color" and text not in _COLORS:
        raise InvalidInput(f"{name} is {', '.join(_COLORS[:-1])} or {_COLORS[-1]}; not {quoted(text)}", field=name)
    return text


def _project_file(start: Path) -> Path | None:
    """Return the nearest `.atlas.toml` in a folder or above it, unless another user may have put it there."""
    folder = start.expanduser().absolute()
    for place in (folder, *folder.parents):
        found, is_safe = None, False
        with suppress(OSError):
            is_safe = _is_safe(os.stat(place))  # noqa: PTH116 - one call
            found = os.lstat(place / _PROJECT_FILE)
        if is_safe and found is not None and stat.S_ISREG(found.st_mode) and _is_trusted(found):
            return place / _PROJECT_FILE
        if found is not None:
            reason = "it is no regular file of yours or root's" if is_safe else "others can put files into its folder"
            _log.info("%s does not count: %s", place / _PROJECT_FILE, reason)
        if not is_safe:
            return None
    return None


def _is_trusted(found: os.stat_result) -> bool:
    """Return whether a file or folder belongs to the caller or root."""
    return found.st_uid in {os.geteuid(), 0}


def _is_safe(folder: os.stat_result) -> bool:
    """Return whether only the caller, root, and perhaps the caller's group can put a file into a folder."""
    return _is_trusted(folder) and not folder.st_mode & stat.S_IWOTH


class _File:
    """One file with settings. The errors name the file and the key.

    A project's file is opened without following a symlink. The user's own file may be a symlink, such as one to a
    folder of dotfiles.
    """

    def __init__(self, path: Path, *, tables: frozenset[str], allowed: frozenset[str] | None = None) -> None:
        self._path = path
        self._tables = tables
        self._allowed = allowed

    def settings(self) -> Mapping[str, Any]:
        """Return the settings in the file; none when there is no file. Raises InvalidInput."""
        return self._checked(self._read())

    def _read(self) -> Mapping[str, Any]:
        # Open without waiting: the file may be a FIFO, whose open waits for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if self._allowed is not None else 0)
        try:
            with open(os.open(self._path, flags), "rb") as file:  # noqa: PTH123  # a descriptor
                self._check_owner(os.fstat(file.fileno()))
                raw = file.read(LIMIT_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise self._wrong("file", f"cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
        try:
            return parse_toml(raw, name=f"{named(str(self._path))}:")
        except InvalidInput as exc:
            raise InvalidInput(str(exc), field="file") from None

    def _check_owner(self, found: os.stat_result) -> None:
        """Raise InvalidInput if another user may have written the file, which holds the DSN and its password."""
        if stat.S_ISDIR(found.st_mode):
            raise self._wrong("file", "cannot be read: is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise self._wrong("file", "is not a regular file: move it away")
        if not _is_trusted(found):
            raise self._wrong("file", f"belongs to another user, number {found.st_uid}: make it yours, or move it away")
        if found.st_mode & stat.S_IWOTH:
            raise self._wrong("file", f"can be written by everybody: chmod o-w {named(str(self._path))}")

    def _checked(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in content:
            if name not in self._tables:
                listed = ", ".join(f"[{one}]" for one in sorted(self._tables))
                raise self._wrong(name, f"is not known; there are: {listed}")
        table = content.get(_TABLE, {})
        if not isinstance(table, dict):
            raise self._wrong(_TABLE, "must be a table")
        known = {attribute.name: attribute for attribute in fields(Settings)}
        for key, value in table.items():
            name = f"{_TABLE}.{key}"
            if key not in known:
                raise self._wrong(name, f"is not known; there are: {', '.join(known)}")
            if self._allowed is not None and key not in self._allowed:
                reason = "a project must not decide where memory goes or in whose name; set it in"
                raise self._wrong(name, f"{reason} {user_file()} or as {_PREFIX}{key.upper()}")
            self._check_value(name, key, value)
        return table

    def _check_value(self, name: str, key: str, value: Any) -> None:
        wanted = _TYPES.get(key, str)
        # True is an int in Python.
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise self._wrong(name, _MUST_BE[wanted])
        try:
            if key == "color":
                _color(str(value))
            elif wanted is int:
                _days(cast("int", value))
        except InvalidInput as exc:
            raise self._wrong(name, str(exc)) from exc

    def _wrong(self, key: str, what: str) -> InvalidInput:
        subject = "" if key == "file" else f"{named(key)} "
        return InvalidInput(f"{named(str(self._path))}: {subject}{what}", field=key)
