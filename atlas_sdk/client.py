"""The blocking client."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from uuid import UUID

from attrs import evolve

from atlas_sdk._client_base import ClientBase
from atlas_sdk._connect import Opened, Options, address, prepare
from atlas_sdk._drive import Driver, Listener
from atlas_sdk._temporary import temporary
from atlas_sdk.errors import AtlasError
from atlas_sdk.model.health import Health
from atlas_sdk.model.isolation import Login
from atlas_sdk.model.origin import Origin
from atlas_sdk.model.pool import PoolStats
from atlas_sdk.ops import health, isolation, schema
from atlas_sdk.topics import Maintenance, Memory, Quotas, Topics, Transaction

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Atlas", "Transaction"]


class Atlas(ClientBase, Topics):
    """A client: open one for a process and share it between threads.

    ::

        with Atlas.open() as atlas:                  # the server of ATLAS_DATABASE_URL, else the embedded one
        with Atlas.open("postgresql://ada@db.example/atlas") as atlas:   # any server
    """

    def __init__(
        self,
        opened: Opened,
        driver: Driver,
        login: Login,
        *,
        origin: Origin | None = None,
        tenant: UUID | None = None,
        parent: "Atlas | None" = None,
    ) -> None:
        """Use `Atlas.open`."""
        self._opened = opened
        self._driver = driver
        self._login = login
        self._origin = origin or Origin()
        self._tenant = tenant
        #: The client that this one is a copy of.
        self._parent = parent
        #: The driver that runs the plans; for a copy, a view of the driver with the copy's origin and tenant.
        self._view = driver if parent is None else driver.view(origin=self._origin, tenant=tenant)
        #: Quotas have connections of their own, so that no number of open transactions keeps a guard waiting.
        self._quotas_driver: Driver = Driver(opened.config, opened.context) if parent is None else parent._quotas_driver  # noqa: SLF001  # of this class
        super().__init__(self._view)
        self.maintenance = Maintenance(self._view)
        self.memory = Memory(self._view)
        # Under row-level security a copy has guards of its own: it reserves and settles as its user.
        shared = None if parent is None or (tenant is not None and login.row_security_applies) else parent.quotas
        quotas_view = self._quotas_driver
        if parent is not None:
            quotas_view = quotas_view.view(origin=self._origin, tenant=tenant)
        self.quotas: Quotas = Quotas(quotas_view, shared=shared, tenant=tenant)

    @classmethod
    def open(cls, dsn: str | None = None, **options: Unpack[Options]) -> Self:
        """Connect, and check that the schema is this version's.

        Without `dsn` and `home`, the client connects to the server that ATLAS_DATABASE_URL names. If it names none, or
        with `home`, the client starts or joins the embedded PostgreSQL and migrates its schema; this server stops with
        its last user. The options are those of `Options`. Raises DatabaseUnreachable, AuthenticationFailed,
        EmbeddedServerFailed, SchemaMismatch, and InvalidInput for an option that does not exist.
        """
        opened = prepare(address(dsn, options), options)
        driver = Driver(opened.config, opened.context)
        try:
            driver.open()
            if opened.migrates:
                driver.run(schema.migrate())
            else:
                driver.run(schema.check())
            login = driver.run(isolation.login())
        except BaseException:
            driver.close()
            opened.release()
            raise
        return cls(opened, driver, login)

    @classmethod
    def temporary(cls, **options: Unpack[Options]) -> AbstractContextManager[Self]:
        """Make a client on a new database for tests and examples; drop the database at the end of the block.

        ::

            with Atlas.temporary() as atlas:
                user = atlas.users.create("ada@example.com")

        The first temporary client of a process starts a PostgreSQL server, which takes a second or two; each further
        one costs a CREATE DATABASE. The database has the schema, and no rows. Nothing of the server survives the
        process, however the process ends, and your own databases stay untouched. The options are those of `Options`,
        except `home`. Entering raises EmbeddedServerFailed, InvalidInput.
        """
        return cls._temporary(options)

    @classmethod
    @contextmanager
    def _temporary(cls, options: Options) -> Iterator[Self]:
        with temporary(options) as (dsn, given), cls.open(dsn, **given) as atlas:
            yield atlas

    def _found(self) -> tuple[Opened, Login]:
        return self._opened, self._login

    def _copy(self, origin: Origin, tenant: UUID | None) -> Self:
        parent = self._parent or self
        return type(self)(self._opened, self._driver, self._login, origin=origin, tenant=tenant, parent=parent)

    def join(self, connection: "Connection[Any]") -> Transaction:
        """Return the topics of this client in a transaction of your own, on your own connection.

        ::

            with psycopg.connect(…) as connection:    # a transaction of yours
                connection.execute("INSERT INTO orders …")
                atlas.join(connection).events.log("order.placed", user=user)

        You commit or roll back. An operation that fails leaves your transaction as it was before the operation. The
        connection must be to the database of this client, with the tables in its search_path; the rights of its login
        apply. Raises InvalidInput outside of a transaction, and on a client that acts for one user.
        """
        self._check_joins()
        return Transaction(self._view.joined(connection))

    def health(self) -> Health:
        """Return whether the database answers, how fast, and which server it is; raise nothing if it is down."""
        try:
            found = self._driver.run(health.look())
        except AtlasError as problem:
            found = Health(ok=False, problem=str(problem))
        config = self._opened.config
        return evolve(found, pooler=config.pooler, encrypted=config.encrypted)

    def pool(self) -> PoolStats:
        """Return the number of connections and counts of the requests for one. No round trip."""
        return evolve(self._driver.stats(), quotas=self._quotas_driver.stats())

    def listen(self, *channels: str) -> Listener:
        """Return a listener for the notifications that `notify` sends on these channels.

        ::

            with atlas.listen("builds") as notifications:
                work_off(atlas)                           # the work that exists already
                for found in notifications:               # a Notification or a NotificationGap: then look again
                    work_off(atlas)

        A client that acts for one user receives only that user's own notifications, which `as_user(user).notify` sends.
        The listener has a connection of its own. When the connection is lost, the listener connects again, for as long
        as that takes. Notifications sent meanwhile are lost, so the next item is a NotificationGap. `get(timeout_s=…)`
        waits for one item. `stop()` ends the listener from any thread, and so does the client's `close`. Entering
        raises InvalidInput behind a pooler in transaction mode.
        """
        return Listener(self._opened.config, channels, self._tenant)

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Run several operations in one transaction: all of them happen, or none.

        ::

            with atlas.transaction() as tx:
                project = tx.projects.create(user, path="/srv/app")
                tx.memory.snapshot(project, "CLAUDE.md", b"# Rules")
        """
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with self._view.transaction() as driver:
            yield Transaction(driver)

    def close(self) -> None:
        """Settle all guards and leases, close every connection and leave the embedded server. Idempotent."""
        if self._parent is not None:
            return
        try:
            self.quotas.close()
        finally:
            self._quotas_driver.close()
            self._driver.close()
            self._opened.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
