"""The asyncio client: the same names, awaited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._client_base import ClientBase
from atlas_sdk._connect import Opened, Options, address, prepare
from atlas_sdk._drive import AsyncDriver, AsyncListener, AsyncWakeups
from atlas_sdk._plan import Plan
from atlas_sdk._temporary import temporary
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.model.health import Health
from atlas_sdk.model.isolation import Login
from atlas_sdk.model.origin import Origin
from atlas_sdk.model.pool import PoolStats
from atlas_sdk.ops import health, isolation, schema
from atlas_sdk.topics import AsyncMaintenance, AsyncMemory, AsyncQuotas, AsyncTopics, AsyncTransaction

if TYPE_CHECKING:
    from psycopg import AsyncConnection

__all__ = ["AsyncAtlas", "AsyncTransaction"]

T = TypeVar("T")


@frozen
class _Connected:
    """The parts of a client that exist once it is connected."""

    opened: Opened
    driver: AsyncDriver
    #: Quotas have connections of their own, so that no number of open transactions keeps a guard waiting.
    quotas_driver: AsyncDriver
    login: Login


class AsyncAtlas(ClientBase, AsyncTopics):
    """A client for asyncio: open one for an event loop and share it between tasks.

    ::

        async with AsyncAtlas.open() as atlas:       # the server of ATLAS_DATABASE_URL, else the embedded one
        async with AsyncAtlas.open("postgresql://ada@db.example/atlas") as atlas:   # any server
    """

    def __init__(
        self,
        dsn: str | None,
        options: Options,
        *,
        origin: Origin | None = None,
        tenant: UUID | None = None,
        parent: "AsyncAtlas | None" = None,
    ) -> None:
        """Use `AsyncAtlas.open`."""
        self._dsn = dsn
        self._options = options
        self._origin = origin or Origin()
        self._tenant = tenant
        #: The client that this one is a copy of, and whose connection it uses.
        self._parent = parent
        self._connection: _Connected | None = None
        runner = _LateRunner(self)
        super().__init__(runner)
        self.maintenance = AsyncMaintenance(runner)
        self.memory = AsyncMemory(runner)
        # Under row-level security a copy has guards of its own: it reserves and settles as its user.
        own = parent is None or (tenant is not None and parent._found()[1].row_security_applies)  # noqa: SLF001  # of this class
        shared = None if parent is None or own else parent.quotas
        self.quotas: AsyncQuotas = AsyncQuotas(_LateRunner(self, of_quotas=True), shared=shared, tenant=tenant)

    @classmethod
    def open(cls, dsn: str | None = None, **options: Unpack[Options]) -> Self:
        """Return a client that connects when it is entered (`async with`) or by `connect()`. Do not await it.

        Without `dsn` and `home`, the client connects to the server that ATLAS_DATABASE_URL names. If it names none, or
        with `home`, the client starts or joins the embedded PostgreSQL and migrates its schema; this server stops with
        its last user. The options are those of `Options`. Raises InvalidInput for an option that does not exist.
        """
        return cls(address(dsn, options), options)

    async def connect(self) -> None:
        """Connect, and check that the schema is this version's. Idempotent.

        Raises DatabaseUnreachable, AuthenticationFailed, EmbeddedServerFailed, SchemaMismatch.
        """
        if self._parent is not None:
            await self._parent.connect()
            return
        if self._connection is not None:
            return
        opened = await asyncio.to_thread(prepare, self._dsn, self._options)
        driver = AsyncDriver(opened.config, opened.context)
        try:
            await driver.open()
            if opened.migrates:
                await driver.run(schema.migrate())
            else:
                await driver.run(schema.check())
            login = await driver.run(isolation.login())
        except BaseException:
            await driver.close()
            opened.release()
            raise
        self._connection = _Connected(opened, driver, AsyncDriver(opened.config, opened.context), login)

    @classmethod
    def temporary(cls, **options: Unpack[Options]) -> AbstractAsyncContextManager[Self]:
        """Make a client on a new database for tests and examples; drop the database at the end of the block.

        ::

            async with AsyncAtlas.temporary() as atlas:
                user = await atlas.users.create("ada@example.com")

        The first temporary client of a process starts a PostgreSQL server, which takes a second or two; each further
        one costs a CREATE DATABASE. The database has the schema, and no rows. Nothing of the server survives the
        process, however the process ends, and your own databases stay untouched. The options are those of `Options`,
        except `home`. Entering raises EmbeddedServerFailed, InvalidInput.
        """
        return cls._temporary(options)

    @classmethod
    @asynccontextmanager
    async def _temporary(cls, options: Options) -> AsyncIterator[Self]:
        making = temporary(options)
        dsn, given = await asyncio.to_thread(making.__enter__)
        try:
            async with cls.open(dsn, **given) as atlas:
                yield atlas
        finally:
            await asyncio.to_thread(making.__exit__, None, None, None)

    def _connected(self) -> _Connected:
        found = (self._parent or self)._connection  # noqa: SLF001  # another object of this class
        if found is None:
            raise InvalidInput("connect first: use `async with AsyncAtlas.open() as atlas`", field="atlas")
        return found

    @property
    def _view(self) -> AsyncDriver:
        """The driver that runs the plans; for a copy, a view of the driver with the copy's origin and tenant."""
        return self._view_of(self._connected().driver)

    def _view_of(self, driver: AsyncDriver) -> AsyncDriver:
        return driver if self._parent is None else driver.view(origin=self._origin, tenant=self._tenant)

    def _found(self) -> tuple[Opened, Login]:
        found = self._connected()
        return found.opened, found.login

    def _copy(self, origin: Origin, tenant: UUID | None) -> Self:
        return type(self)(self._dsn, self._options, origin=origin, tenant=tenant, parent=self._parent or self)

    def join(self, connection: "AsyncConnection[Any]") -> AsyncTransaction:
        """Return the topics of this client in a transaction of your own, on your own connection. Do not await it.

        ::

            async with await psycopg.AsyncConnection.connect(…) as connection:    # a transaction of yours
                await connection.execute("INSERT INTO orders …")
                await atlas.join(connection).events.log("order.placed", user=user)

        You commit or roll back. An operation that fails leaves your transaction as it was before the operation. The
        connection must be to the database of this client, with the tables in its search_path; the rights of its login
        apply. Raises InvalidInput outside of a transaction, and on a client that acts for one user.
        """
        self._check_joins()
        return AsyncTransaction(self._view.joined(connection))

    async def health(self) -> Health:
        """Return whether the database answers, how fast, and which server it is; raise nothing if it is down."""
        try:
            found = await self._view.run(health.look())
        except AtlasError as problem:
            found = Health(ok=False, problem=str(problem))
        connection = (self._parent or self)._connection  # noqa: SLF001  # another object of this class
        if connection is None:
            return found
        config = connection.opened.config
        return evolve(found, pooler=config.pooler, encrypted=config.encrypted)

    def pool(self) -> PoolStats:
        """Return the number of connections and counts of the requests for one. No round trip; do not await it."""
        found = self._connected()
        return evolve(found.driver.stats(), quotas=found.quotas_driver.stats())

    def listen(self, *channels: str) -> AsyncListener:
        """Return a listener for the notifications that `notify` sends on these channels. Do not await it.

        ::

            async with atlas.listen("builds") as notifications:
                await work_off(atlas)                           # the work that exists already
                async for found in notifications:               # a Notification or a NotificationGap: then look again
                    await work_off(atlas)

        A client that acts for one user receives only that user's own notifications, which `as_user(user).notify` sends.
        The listener has a connection of its own. When the connection is lost, the listener connects again, for as long
        as that takes. Notifications sent meanwhile are lost, so the next item is a NotificationGap. `get(timeout_s=…)`
        waits for one item. `stop()` ends the listener from any thread, and so does the client's `close`. Entering
        raises InvalidInput behind a pooler in transaction mode.
        """
        return AsyncListener(self._connected().opened.config, channels, self._tenant)

    def transaction(self) -> AbstractAsyncContextManager[AsyncTransaction]:
        """Run several operations in one transaction: all of them happen, or none.

        ::

            async with atlas.transaction() as tx:
                project = await tx.projects.create(user, path="/srv/app")
                await tx.memory.snapshot(project, "CLAUDE.md", b"# Rules")
        """
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncTransaction]:
        async with self._view.transaction() as driver:
            yield AsyncTransaction(driver)

    async def close(self) -> None:
        """Settle all guards and leases, close every connection and leave the embedded server. Idempotent."""
        if self._parent is not None or self._connection is None:
            return
        try:
            await self.quotas.close()
        finally:
            await self._connection.quotas_driver.close()
            await self._connection.driver.close()
            self._connection.opened.release()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _LateRunner:
    """A runner that uses a driver that the client gets when it connects."""

    def __init__(self, atlas: AsyncAtlas, *, of_quotas: bool = False) -> None:
        self._atlas = atlas
        self._of_quotas = of_quotas

    @property
    def _driver(self) -> AsyncDriver:
        found = self._atlas._connected()  # noqa: SLF001  # this class serves the client
        return self._atlas._view_of(found.quotas_driver if self._of_quotas else found.driver)  # noqa: SLF001  # as above

    @property
    def retries(self) -> int:
        return self._driver.retries

    @property
    def wakeups(self) -> AsyncWakeups:
        return self._driver.wakeups

    async def run(self, plan: Plan[T]) -> T:
        return await self._driver.run(plan)
