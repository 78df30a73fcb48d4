"""The plan of a service: the program, its account, its home and its variables."""

import hashlib
import os
import pwd
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from atlas_sdk.config import database_url, user_file
from atlas_sdk.errors import InvalidInput, NotFound
from atlas_sdk.text import quoted

if TYPE_CHECKING:
    from atlas_sdk.cli.invocation import Invocation

_NAME: Final = "atlas-watcher"
#: The variables of the caller that the service gets too. The password of a DSN never stands among them.
_KEPT: Final = (
    "ATLAS_MAINTENANCE",
    "ATLAS_KEEP_AUTO_DAYS",
    "ATLAS_KEEP_STOPPED_PREVIEWS_DAYS",
    "ATLAS_KEEP_EVENTS_DAYS",
    "ATLAS_EMBEDDED_LINGER_S",
    "ATLAS_METRICS_PORT",
)
#: A unit is a text of lines in UTF-8, so nothing in it may hold these.
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@frozen(kw_only=True)
class ServicePlan:
    """The service of one home."""

    #: The name of the service: the same for every command about this home.
    name: str
    #: The program and its arguments.
    program: tuple[str, ...]
    #: The home, with all links resolved.
    home: Path
    #: The variables of the service, without the DSN.
    variables: Mapping[str, str]
    #: The DSN that the caller gave; None if `config.toml` decides, or the embedded database is used.
    dsn: str | None = field(repr=False)
    #: The account that a service of the machine runs as; None for a service of the calling user.
    account: str | None

    @property
    def has_network(self) -> bool:
        """True if the service needs more than sockets of this machine's file system."""
        # A DSN in config.toml may be changed after the installation, so that file counts too.
        has_settings = self.account is not None or user_file().exists()
        return self.dsn is not None or "ATLAS_METRICS_PORT" in self.variables or has_settings


def is_root() -> bool:
    """Return whether root runs this command: root has no login that could own a service of the user."""
    return os.geteuid() == 0


def plan_of(
    run: "Invocation", *, system: bool, account: str | None = None, metrics_port: int | None = None
) -> ServicePlan:
    """Return the plan of the service for the home and the database of this call.

    Raises InvalidInput for a value that a unit cannot hold, NotFound for an account that does not exist.
    """
    owner = _account(account) if system or account is not None else None
    usual = _usual_home(owner)
    chosen = run.settings.home is not None or os.environ.get("ATLAS_HOME")
    home = Path(os.path.realpath(run.settings.folder if chosen else usual))
    kept = [*_KEPT, "XDG_CONFIG_HOME"] if owner is None else _KEPT
    variables = {name: os.environ[name] for name in kept if os.environ.get(name)}
    if metrics_port is not None:
        variables["ATLAS_METRICS_PORT"] = str(metrics_port)
    # `-P` keeps the current folder out of the search path: a folder `watcher` in the home must not be imported.
    program = [sys.executable, "-P", "-m", "watcher"]
    dsn = None
    if run.flags.home:
        # The option, unlike the variable, asks for the embedded database even if config.toml names a server.
        program += ["--home", str(home)]
    else:
        variables["ATLAS_HOME"] = str(home)
        dsn = run.flags.dsn or database_url()
    for what, text in {"the home": str(home), "the program": program[0], **variables}.items():
        _check(what, text)
    if dsn is not None:
        from atlas_sdk.dsn import check_dsn

        check_dsn(dsn)
        if _UNFIT.search(dsn):
            raise InvalidInput("the DSN has a line break or another control character", field="dsn")
    return ServicePlan(
        name=_name(home, usual),
        program=tuple(program),
        home=home,
        variables=variables,
        dsn=dsn,
        account=None if owner is None else owner.pw_name,
    )


def _account(name: str | None) -> pwd.struct_passwd:
    """Return the account of a service of the machine: the given one, else the one that called sudo, else this one."""
    wanted = name or (os.environ.get("SUDO_USER") if is_root() else None)
    try:
        return pwd.getpwuid(os.geteuid()) if wanted is None else pwd.getpwnam(wanted)
    except (KeyError, ValueError):
        shown = quoted(wanted) if wanted is not None else f"number {os.geteuid()}"
        raise NotFound(f"there is no account {shown} on this machine", kind="user", name=str(wanted)) from None


def _usual_home(owner: pwd.struct_passwd | None) -> Path:
    """Return the home of an account that chooses none."""
    from platformdirs import user_data_path

    mine = Path(user_data_path(user_file().parent.name, appauthor=False))
    if owner is None or owner.pw_uid == os.geteuid() or not mine.is_relative_to(Path.home()):
        return mine
    # `sudo` keeps or changes HOME, depending on its settings: take the account's own folder.
    return Path(owner.pw_dir, mine.relative_to(Path.home()))


def _name(home: Path, usual: Path) -> str:
    """Return the name of the service: the plain name for the usual home, else one with a digest of the home."""
    if home == Path(os.path.realpath(usual)):
        return _NAME
    return f"{_NAME}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


def _check(what: str, text: str) -> None:
    if _UNFIT.search(text):
        raise InvalidInput(
            f"{what} {quoted(text)} has a line break, another control character or bytes that are not UTF-8, which no "
            "unit can hold; use another path",
            field=what,
        )
    if what == "the program" and "$" in text:
        raise InvalidInput(f"{what} {quoted(text)} has a $ in its path, which no unit can hold", field=what)
