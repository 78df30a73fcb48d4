"""Find the database before a client connects, and make the context of its plans."""

import getpass
import sys
import time
from collections.abc import Callable
from os import PathLike
from typing import TypedDict
from uuid import UUID

from attrs import evolve, field, frozen

from atlas_sdk._drive import ConnectionConfig, TimeLimits
from atlas_sdk._embedded import EmbeddedServer
from atlas_sdk._heads import HeadCache
from atlas_sdk._keyring import Keyring
from atlas_sdk._plan import Context
from atlas_sdk._shared_versions import SharedVersions
from atlas_sdk.config import database_url, expanded, home_folder, signing_keys_file
from atlas_sdk.dsn import check_dsn
from atlas_sdk.home import check_private_file
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.signing_keys import SigningKeys

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

__all__ = ["Opened", "Options", "address", "prepare"]


@frozen
class Opened:
    """A prepared connection: its address, the context of plans, and the embedded server if one is used."""

    config: ConnectionConfig
    context: Context
    server: EmbeddedServer | None
    #: Whether to apply missing migrations.
    migrates: bool = field(kw_only=True)
    #: What all clients of the embedded server share.
    versions: SharedVersions | None = field(kw_only=True)

    def keep_for(self, seconds: float) -> None:
        """Keep the embedded server up after its last user left."""
        if self.server is not None:
            self.server.keep_for(seconds)

    def release(self) -> None:
        """Leave the embedded server. Idempotent."""
        if self.versions is not None:
            self.versions.close()
        if self.server is not None:
            self.server.release()


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that has no name.
        return None


def new_id() -> UUID:
    """Return a uuid v7: later ones sort after earlier ones."""
    return uuid7()


class Options(TypedDict, total=False):
    """The options of `Atlas.open` and `AsyncAtlas.open`."""

    #: Use the embedded server of this folder, whatever ATLAS_DATABASE_URL says; default: ATLAS_HOME, else the user's
    #: data folder.
    home: str | PathLike[str] | None
    #: Who acts; default: source "sdk" and the login name.
    attribution: Attribution
    #: Connections at most; default 20.
    pool_max: int
    #: A connection that was idle for this many seconds is closed; default 30.
    idle_s: float
    #: Seconds to wait for a connection; default 5.
    connect_timeout_s: float
    #: Default: where no pooler stands between; they fail behind PgBouncer in transaction mode before 1.21.
    prepare_statements: bool
    #: How often a call is made again of which it is certain that nothing was kept: after a serialization failure, a
    #: deadlock or a lost connection; default 3, with waits of 0.02 s and more between; 0: never.
    retries: int
    #: The server ends a statement that takes longer, with TimedOut; default: as the server is set.
    statement_timeout_s: float
    #: The server ends a statement that waits longer for one lock, with TimedOut; default: as the server is set.
    lock_timeout_s: float
    #: The server ends a connection in whose transaction nothing happens for longer; default: as the server is set.
    idle_in_transaction_timeout_s: float
    #: Log every statement's name, time and row count (never a value) to the logger "atlas_sdk.queries"; default off.
    query_log: bool
    #: Log a statement that took longer as a warning, there too, with its name, time and row count, and once a minute
    #: its plan; never a value. Default off.
    slow_query_s: float
    #: What session tokens are signed with; default: the file that ATLAS_SIGNING_KEYS names, else, for the embedded
    #: server alone, "signing-keys" in its home, made at the first token.
    signing_keys: SigningKeys
    #: Apply missing migrations; default: only on the embedded server, a server by DSN is its owner's.
    migrate: bool


def address(dsn: str | None, options: Options) -> str | None:
    """Return the server to use: the one given, else that of ATLAS_DATABASE_URL; None: the embedded one.

    A home that is given is the embedded server's, whatever the environment says.
    """
    if dsn is not None or options.get("home") is not None:
        return dsn
    return database_url()


def prepare(dsn: str | None, options: Options) -> Opened:
    """Start or join the embedded server where no DSN is given, and put the settings together."""
    server: EmbeddedServer | None = None
    before_connect: Callable[[], None] | None = None
    versions: SharedVersions | None = None
    keyring = Keyring(options.get("signing_keys"), file=signing_keys_file())
    if dsn is not None:
        check_dsn(dsn)
    if dsn is None:
        home = options.get("home")
        # A later change of the current folder must not lead to other files.
        folder = home_folder() if home is None else expanded(home)
        server = EmbeddedServer.acquire(folder)
        try:
            # Every client of the embedded server is on this machine.
            versions = SharedVersions(folder / "heads")
            if not keyring.is_set:
                keyring = Keyring(file=check_private_file(folder / "signing-keys"), makes=True)
        except BaseException:
            if versions is not None:
                versions.close()
            server.release()
            raise
        dsn, before_connect = server.dsn, server.ensure_running
    config = ConnectionConfig(
        dsn,
        before_connect=before_connect,
        pool_max=options.get("pool_max", 20),
        idle_s=options.get("idle_s", 30.0),
        connect_timeout_s=options.get("connect_timeout_s", 5.0),
        prepare=options.get("prepare_statements"),
        query_log=options.get("query_log", False),
        slow_query_s=options.get("slow_query_s"),
        retries=options.get("retries", 3),
        time_limits=TimeLimits(
            statement_s=options.get("statement_timeout_s"),
            lock_s=options.get("lock_timeout_s"),
            idle_in_transaction_s=options.get("idle_in_transaction_timeout_s"),
        ),
    )
    actor = options.get("attribution") or Attribution()
    if actor.login is None:
        actor = evolve(actor, login=_login())
    context = Context(
        new_id=new_id, attribution=actor, heads=HeadCache(versions=versions), monotonic=time.monotonic, keyring=keyring
    )
    return Opened(config, context, server, migrates=options.get("migrate", server is not None), versions=versions)
