"""The options of `Atlas.open`, and the preparation of a client from them.

`prepare` finds the database, and makes the configuration of the connections and the context of the plans.
"""

import time
from collections.abc import Callable
from difflib import get_close_matches
from os import PathLike
from typing import TYPE_CHECKING, TypedDict

from attrs import evolve, field, frozen

from atlas_sdk._context import Context
from atlas_sdk._drive import ConnectionConfig, TimeLimits
from atlas_sdk._embedded import EmbeddedServer
from atlas_sdk._heads import HeadCache
from atlas_sdk._keyring import Keyring
from atlas_sdk._shared_versions import SharedVersions
from atlas_sdk._signatures import without_methods
from atlas_sdk.actor import login_name, new_id
from atlas_sdk.config import database_url, expanded, home_folder, signing_keys_file
from atlas_sdk.dsn import check_dsn
from atlas_sdk.errors import InvalidInput
from atlas_sdk.home import check_private_file
from atlas_sdk.journal import ClientJournal
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.signing_keys import SigningKeys
from atlas_sdk.text import quoted

__all__ = ["Opened", "Options", "address", "prepare"]


@frozen
class Opened:
    """The parts that a client is made of; `server` is None unless the client uses the embedded server."""

    config: ConnectionConfig
    context: Context
    server: EmbeddedServer | None
    #: True to apply missing migrations.
    migrates: bool = field(kw_only=True)
    #: The stamps that all clients of the embedded server share; None for a server by DSN.
    versions: SharedVersions | None = field(kw_only=True)

    def keep_for(self, seconds: float) -> None:
        """Keep the embedded server running this long after its last user has left."""
        if self.server is not None:
            self.server.keep_for(seconds)

    def release(self) -> None:
        """Close the journal, and leave the embedded server. Idempotent."""
        self.context.journal.close()
        if self.versions is not None:
            self.versions.close()
        if self.server is not None:
            self.server.release()


class Options(TypedDict, total=False):
    """The options of `Atlas.open` and `AsyncAtlas.open`. Times are in seconds.

    home: str or path; default ATLAS_HOME, else the user's data folder
        Use the embedded server of this folder, and ignore ATLAS_DATABASE_URL.
    attribution: Attribution; default source "sdk" and the login name
        The author of the changes that the client makes.
    pool_max: int; default 20
        The most connections at one time; quotas have as many of their own.
    idle_s: float, seconds; default 30
        Close a connection that was idle for this time.
    connect_timeout_s: float, seconds; default 5
        The longest wait for a connection.
    prepare_statements: bool; default True, but False behind a pooler
        Prepared statements fail behind PgBouncer in transaction mode before 1.21.
    retries: int; default 3, 0 is never
        Repeat a call that certainly changed nothing: after a serialization failure, a deadlock or a lost connection.
        The first wait is up to 0.02 s, each further one up to twice as long.
    statement_timeout_s: float, seconds; default the server's setting
        The server ends a statement that takes longer, with TimedOut.
    lock_timeout_s: float, seconds; default the server's setting
        The server ends a statement that waits longer for one lock, with TimedOut.
    idle_in_transaction_timeout_s: float, seconds; default the server's setting
        The server ends a connection whose open transaction is idle for longer.
    query_log: bool; default False
        Log every statement's name, time and number of rows, never a value, to the logger "atlas_sdk.queries".
    slow_query_s: float, seconds; default none
        Log a warning for each statement that takes longer, to the same logger. At most once a minute for one statement,
        log PostgreSQL's query plan too. The log never has a value.
    signing_keys: SigningKeys; default the file that ATLAS_SIGNING_KEYS names
        The keys of session tokens. If neither is given, a client of the embedded server uses the file "signing-keys" in
        its home, and makes this file at the first token.
    migrate: bool; default True for the embedded server, else False
        Apply missing migrations. On a server by DSN, this is the task of the schema's owner.
    """

    home: str | PathLike[str] | None
    attribution: Attribution
    pool_max: int
    idle_s: float
    connect_timeout_s: float
    prepare_statements: bool
    retries: int
    statement_timeout_s: float
    lock_timeout_s: float
    idle_in_transaction_timeout_s: float
    query_log: bool
    slow_query_s: float
    signing_keys: SigningKeys
    migrate: bool


_OPTIONS = tuple(Options.__annotations__)
if not TYPE_CHECKING:
    Options = without_methods(Options)


def _check_names(options: Options) -> None:
    """Raise InvalidInput for an option that does not exist, because a misspelt option would have no effect."""
    for name in options:
        if name not in _OPTIONS:
            close = get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(_OPTIONS)}"
            raise InvalidInput(f"there is no option {quoted(name)}; {hint}", field=name)


def address(dsn: str | None, options: Options) -> str | None:
    """Return the DSN to use: the given one, else the one in ATLAS_DATABASE_URL. None means the embedded server.

    With the option `home`, the client uses the embedded server even if ATLAS_DATABASE_URL is set. Raises InvalidInput
    for an option that does not exist.
    """
    _check_names(options)
    if dsn is not None or options.get("home") is not None:
        return dsn
    return database_url()


def _journal(home: str | PathLike[str] | None) -> ClientJournal:
    """Return the journal of the client's home. Make nothing: a client of a server may have no home at all."""
    try:
        return ClientJournal(home_folder() if home is None else expanded(home))
    except InvalidInput:
        # A container may run as a user id without a folder.
        return ClientJournal()


def prepare(dsn: str | None, options: Options) -> Opened:
    """Start or join the embedded server if no DSN is given, and apply the options."""
    server: EmbeddedServer | None = None
    before_connect: Callable[[], None] | None = None
    versions: SharedVersions | None = None
    keyring = Keyring(options.get("signing_keys"), file=signing_keys_file())
    if dsn is not None:
        check_dsn(dsn)
    if dsn is None:
        home = options.get("home")
        # Make the path absolute: the current folder may change later.
        folder = home_folder() if home is None else expanded(home)
        server = EmbeddedServer.acquire(folder)
        try:
            # All clients of the embedded server are on this machine, so they can share memory.
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
        actor = evolve(actor, login=login_name())
    context = Context(
        new_id=new_id,
        attribution=actor,
        heads=HeadCache(versions=versions),
        monotonic=time.monotonic,
        keyring=keyring,
        journal=_journal(options.get("home")),
    )
    return Opened(config, context, server, migrates=options.get("migrate", server is not None), versions=versions)
