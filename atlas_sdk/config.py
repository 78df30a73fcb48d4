"""Settings, by precedence: flag, `ATLAS_*`, the project's `.atlas.toml`, the user's `config.toml`, default.

In both files they stand in the table `[atlas]`::

    [atlas]
    database_url = "postgresql://ada@db.example/atlas"
    color = "never"

One exception: a home given as a flag is about the embedded database in it, whatever server the rest names.

A project's file may come with a cloned repository, so it must not say where memory goes or in whose name: it has a
say in `color` and `query_log` only.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import platformdirs
from attrs import field, fields, frozen

from atlas_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from typed_settings.types import LoadedSettings, OptionList, SettingsClass

__all__ = ["Settings", "database_url", "expanded", "home_folder", "load_settings", "signing_keys_file", "user_file"]

_APP: Final = "atlasengine"
_PREFIX: Final = "ATLAS_"
_COLORS: Final = ("auto", "always", "never")
_TABLE: Final = "atlas"
#: The file of a project; its table `[track]` is read by `atlas_sdk.files.Tracking`.
_PROJECT_FILE: Final = ".atlas.toml"
_PROJECT_TABLES: Final = frozenset({_TABLE, "track"})
#: What a project may decide: how things look, not where they go.
_PROJECT_KEYS: Final = frozenset({"color", "query_log"})
#: What is no text in the files.
_TYPES: Final[Mapping[str, type]] = {
    "query_log": bool,
    "maintenance": bool,
    "keep_auto_days": int,
    "keep_stopped_previews_days": int,
    "keep_events_days": int,
}
_MUST_BE: Final = {bool: "must be true or false", int: "must be a whole number", str: "must be a string"}
#: A century.
_DAYS_MAX: Final = 36_500
#: Nobody writes a megabyte of settings; a device or a mistake is not read to its end.
_LIMIT_BYTES: Final = 2**20


def database_url() -> str | None:
    """Return the server that ATLAS_DATABASE_URL names, if it names one."""
    return os.environ.get("ATLAS_DATABASE_URL") or None


def home_folder() -> Path:
    """Return where the embedded database, the spool and the state live: ATLAS_HOME, else the user's data folder.

    Always an absolute path. A relative ATLAS_HOME counts from the current folder, as a path on the command line does; a
    relative XDG_DATA_HOME is ignored, as the XDG Base Directory Specification has it. Raises InvalidInput when the user
    has no folder.
    """
    given = os.environ.get("ATLAS_HOME")
    if given:
        return expanded(given, field="ATLAS_HOME")
    try:
        found = Path(platformdirs.user_data_path(_APP, appauthor=False))
    except RuntimeError:
        found = Path()  # without HOME, of a user who is in no list; older releases leave the "~" there
    return found if found.is_absolute() else expanded(f"~/.local/share/{_APP}")


def expanded(folder: str | os.PathLike[str], *, field: str = "home") -> Path:
    """Return a folder as an absolute path, "~" replaced by the user's folder.

    Raises InvalidInput for a user without one, an empty name, and a name that no folder can have.
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
    """Return where the user's own `config.toml` is, or would be."""
    return Path(platformdirs.user_config_path(_APP, appauthor=False)) / "config.toml"


def signing_keys_file() -> Path | None:
    """Return the file of the keys that session tokens are signed with, if ATLAS_SIGNING_KEYS names one."""
    given = os.environ.get("ATLAS_SIGNING_KEYS")
    return Path(given).expanduser() if given else None


def _color(value: str) -> str:
    if value not in _COLORS:
        raise InvalidInput(f"color is auto, always or never; not {value!r}", field="color")
    return value


def _days(value: int | str) -> int:
    days = int(value)
    if not 0 <= days <= _DAYS_MAX:
        raise InvalidInput(f"days are from 0 to {_DAYS_MAX:,}; not {value!r}", field="days")
    return days


def _given(value: str | None) -> str | None:
    """Take an empty text, such as an emptied variable, for "not given"."""
    return value or None


@frozen(kw_only=True)
class Settings:
    """What can be set for the command line and the watcher."""

    #: None: the embedded server.
    database_url: str | None = field(default=None, converter=_given, repr=lambda url: "None" if url is None else "'…'")
    #: None: see `home_folder`.
    home: str | None = field(default=None, converter=_given)
    #: E-mail of the user to act as, on a server by DSN; None: the login's own.
    user: str | None = field(default=None, converter=_given)
    #: "auto": on a terminal, unless NO_COLOR is set; "always"; "never".
    color: str = field(default="auto", converter=_color)
    #: Log every statement's name, time and number of rows.
    query_log: bool = False
    #: Whether the watcher looks after its database once a day, see docs/maintenance.md.
    maintenance: bool = True
    #: How long maintenance keeps versions that the watcher took, previews that have stopped, and events.
    keep_auto_days: int = field(default=30, converter=_days)
    keep_stopped_previews_days: int = field(default=7, converter=_days)
    keep_events_days: int = field(default=365, converter=_days)

    @property
    def folder(self) -> Path:
        """Where the embedded database, the spool and the state live."""
        return home_folder() if self.home is None else expanded(self.home)


def load_settings(project: Path | None = None, **flags: str | bool | None) -> Settings:
    """Put the settings together; `project` is a folder in a project, a flag that is None was not given.

    The flag `home` without the flag `database_url` asks for the embedded database of that folder. A server that the
    environment or a file names is left out then: who types a folder must not reach the database of a whole platform.
    Raises InvalidInput that names the file, or the variable, and the key.
    """
    # Takes as long to import as half of psycopg, and nobody who imports the library needs it.
    import typed_settings as ts  # noqa: PLC0415  # see above
    from typed_settings.exceptions import InvalidSettingsError  # noqa: PLC0415  # see above
    from typed_settings.loaders import DictLoader  # noqa: PLC0415  # see above

    loaders: list[Any] = [_File(user_file(), tables=frozenset({_TABLE}))]
    if project is not None and (found := _project_file(project)) is not None:
        loaders.append(_File(found, tables=_PROJECT_TABLES, allowed=_PROJECT_KEYS))
    loaders.append(ts.EnvLoader(_PREFIX))
    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("home"):
        given.setdefault("database_url", "")
    loaders.append(DictLoader(given))
    try:
        return ts.load_settings(Settings, loaders)
    except InvalidSettingsError as exc:
        # Files are checked key by key, so this came from a flag or from the environment.
        raise _wrong_value(flags) or exc from exc


def _wrong_value(flags: Mapping[str, str | bool | None]) -> InvalidInput | None:
    for variable in (_PREFIX + key.upper() for key, kind in _TYPES.items() if kind is int):
        days = os.environ.get(variable, "0")
        if not days.isdecimal() or int(days) > _DAYS_MAX:
            return InvalidInput(f"{variable} is a number of days, 0 to {_DAYS_MAX:,}; not {days!r}", field=variable)
    truth = ("true", "false")
    for key, wanted in (("color", _COLORS), ("query_log", truth), ("maintenance", truth)):
        flag, variable = flags.get(key), _PREFIX + key.upper()
        given = os.environ.get(variable) if flag is None else str(flag)
        if given is not None and given.lower() not in wanted:
            name = variable if flag is None else key
            return InvalidInput(f"{name} is {', '.join(wanted[:-1])} or {wanted[-1]}; not {given!r}", field=name)
    return None


def _project_file(start: Path) -> Path | None:
    """Return the nearest `.atlas.toml` at or above a folder."""
    folder = start.expanduser().absolute()
    for place in (folder, *folder.parents):
        if (found := place / _PROJECT_FILE).is_file():
            return found
    return None


class _File:
    """Loads one file, and names it and the key when something is wrong."""

    def __init__(self, path: Path, *, tables: frozenset[str], allowed: frozenset[str] | None = None) -> None:
        self._path = path
        self._tables = tables
        self._allowed = allowed

    def __call__(self, settings_cls: "SettingsClass", options: "OptionList") -> "LoadedSettings":  # noqa: ARG002
        from typed_settings.types import LoadedSettings, LoaderMeta  # noqa: PLC0415  # as in load_settings

        return LoadedSettings(dict(self._checked(self._read())), LoaderMeta(str(self._path)))

    def _read(self) -> Mapping[str, Any]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise self._wrong("file", f"cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
        if len(raw) > _LIMIT_BYTES:
            raise self._wrong("file", f"is larger than {_LIMIT_BYTES:,} bytes")
        try:
            return tomllib.loads(raw.decode())
        except ValueError as exc:
            raise self._wrong("file", f"is not TOML: {exc}") from exc

    def _checked(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in content:
            if name not in self._tables:
                raise self._wrong(name, f"is not known; there are: {', '.join(f'[{t}]' for t in sorted(self._tables))}")
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
        subject = "" if key == "file" else f"{key} "
        return InvalidInput(f"{self._path}: {subject}{what}", field=key)
