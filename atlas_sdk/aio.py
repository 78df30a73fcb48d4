"""The asyncio client: the same names, awaited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from uuid import UUID

from attrs import evolve

from atlas_sdk._connect import Opened, Options, address, prepare
from atlas_sdk._drive import AsyncDriver, AsyncListener, AsyncView
from atlas_sdk._maintaining import AsyncMaintaining
from atlas_sdk._namespaces import AsyncNamespace, AsyncRunner, async_method
from atlas_sdk._plan import Plan
from atlas_sdk._temporary import temporary
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.methods import AsyncGuardMethods
from atlas_sdk.model.health import Health
from atlas_sdk.model.isolation import Login
from atlas_sdk.model.origin import Address, Origin
from atlas_sdk.model.pool import PoolStats
from atlas_sdk.model.users import User
from atlas_sdk.ops import (
    auth,
    builds,
    checkpoints,
    diffs,
    events,
    health,
    isolation,
    leftovers,
    limits,
    maintenance,
    memory,
    memory_usage,
    notifications,
    previews,
    projects,
    purges,
    quota_accounting,
    quotas,
    references,
    restore_plans,
    restores,
    retention,
    schema,
    sessions,
    summaries,
    usage,
    users,
    verify,
)

if TYPE_CHECKING:
    from psycopg import AsyncConnection

__all__ = [
    "AsyncAtlas",
    "AsyncBuilds",
    "AsyncEvents",
    "AsyncMaintenance",
    "AsyncMemory",
    "AsyncPreviews",
    "AsyncProjects",
    "AsyncQuotas",
    "AsyncSchema",
    "AsyncTransaction",
    "AsyncTransactionMemory",
    "AsyncUsageLedger",
    "AsyncUsers",
]

T = TypeVar("T")


class AsyncUsers(AsyncNamespace):
    """Users: the tenants."""

    create = async_method(users.create)
    get = async_method(users.get)
    by_email = async_method(users.by_email)
    local = async_method(users.local_user)
    find_local = async_method(users.find_local)
    list = async_method(users.list_all)
    set_plan = async_method(users.set_plan)
    verify_email = async_method(users.verify_email)
    update = async_method(users.update)
    delete = async_method(users.delete)
    authenticate = async_method(auth.authenticate)
    set_password = async_method(auth.set_password)
    usage_summary = async_method(summaries.usage_summary)


class AsyncSessions(AsyncNamespace):
    """Sign-in sessions: tokens that are valid until they expire or are revoked."""

    issue = async_method(sessions.issue)
    verify = async_method(sessions.verify)
    touch = async_method(sessions.touch)
    revoke = async_method(sessions.revoke)
    revoke_all = async_method(sessions.revoke_all)
    list = async_method(sessions.list_active)
    purge_expired = async_method(sessions.purge_expired)


class AsyncProjects(AsyncNamespace):
    """Projects: the folders whose memory files are kept."""

    create = async_method(projects.create)
    get = async_method(projects.get)
    by_path = async_method(projects.by_path)
    by_session = async_method(projects.by_session)
    at = async_method(projects.at)
    archive = async_method(projects.archive)
    activate = async_method(projects.activate)
    set_status = async_method(projects.set_status)
    delete = async_method(projects.delete)
    purge = async_method(projects.purge)
    touch = async_method(projects.touch)
    update_memory = async_method(projects.update_memory)
    list = async_method(projects.list_of)
    health = async_method(summaries.health)


class AsyncTransactionMemory(AsyncNamespace):
    """Every version of every memory file: append, read, compare, name; what may be part of a transaction."""

    snapshot = async_method(memory.snapshot)
    capture = async_method(memory.capture)
    delete = async_method(memory.delete)
    files = async_method(memory.files)
    history = async_method(memory.history)
    resolve = async_method(references.resolve)
    version = async_method(references.version)
    read = async_method(references.read)
    content = async_method(references.content)
    diff = async_method(diffs.diff)
    checkpoint = async_method(checkpoints.checkpoint)
    checkpoints = async_method(checkpoints.checkpoints)
    plan_restore = async_method(restore_plans.plan_restore)
    plan_undo = async_method(restore_plans.plan_undo)
    plan_redo = async_method(restore_plans.plan_redo)
    verify = async_method(verify.verify)


class AsyncMemory(AsyncTransactionMemory):
    """Every version of every memory file: append, read, compare, name, restore.

    Restores are no part of transactions: files cannot be rolled back, so what stood there must be on record for good.
    """

    restore = async_method(restores.restore)
    undo = async_method(restores.undo)
    redo = async_method(restores.redo)
    remove_leftovers = async_method(leftovers.remove_leftovers)


class AsyncQuotas(AsyncGuardMethods):
    """Limits that hold: reserve before, settle after.

    No part of transactions: the lock on the user's limits would last as long as the call that is paid for.
    """

    reserve = async_method(quotas.reserve)
    settle = async_method(quotas.settle)
    release = async_method(quotas.release)
    extend = async_method(quotas.extend)
    progress = async_method(quotas.progress)
    add_tokens = async_method(quotas.add_tokens)
    lease_block = async_method(quotas.lease_block)
    hit = async_method(quotas.hit)
    usage = async_method(quota_accounting.usage)
    get = async_method(quota_accounting.usage)
    check = async_method(quota_accounting.check)
    reservations = async_method(quota_accounting.reservations)
    history = async_method(quota_accounting.history)
    forecast = async_method(quota_accounting.forecast)
    verify = async_method(quota_accounting.verify)
    reset_monthly = async_method(quota_accounting.reset_monthly)
    set_limits = async_method(limits.set_limits)
    use_plan_limits = async_method(limits.use_plan_limits)
    set_time_zone = async_method(limits.set_time_zone)
    plans = async_method(limits.plans)
    plan_limits = async_method(limits.plan_limits)
    add_plan = async_method(limits.add_plan)
    set_plan_limits = async_method(limits.set_plan_limits)
    grant = async_method(limits.grant)
    grants = async_method(limits.grants)
    memory = async_method(memory_usage.memory)
    record_memory_threshold = async_method(memory_usage.record_memory_threshold)


class AsyncBuilds(AsyncNamespace):
    """Builds: queued, running, succeeded or failed, and their logs."""

    create = async_method(builds.create)
    start = async_method(builds.start)
    succeed = async_method(builds.succeed)
    fail = async_method(builds.fail)
    append_log = async_method(builds.append_log)
    log = async_method(builds.log)
    get = async_method(builds.get)
    list = async_method(builds.list_of)
    stats = async_method(builds.stats)


class AsyncPreviews(AsyncNamespace):
    """Previews: containers that serve a project at a host."""

    create = async_method(previews.create)
    set_status = async_method(previews.set_status)
    stop = async_method(previews.stop)
    touch = async_method(previews.touch)
    put_to_sleep_idle = async_method(previews.put_to_sleep_idle)
    allocate_port = async_method(previews.allocate_port)
    release_port = async_method(previews.release_port)
    active = async_method(previews.active)
    by_host = async_method(previews.by_host)
    get = async_method(previews.get)
    list = async_method(previews.list_of)


class AsyncUsageLedger(AsyncNamespace):
    """The ledger of what was used: entries beside the quotas, and sums over all."""

    log = async_method(usage.log)
    totals = async_method(usage.totals)


class AsyncEvents(AsyncNamespace):
    """The audit trail."""

    log = async_method(events.log)
    recent = async_method(events.recent)
    search = async_method(events.search)


class AsyncMaintenance(AsyncMaintaining):
    """Maintenance of the database for all users: single jobs, and all of them.

    No part of transactions: each job commits batch by batch.
    """

    runs = async_method(maintenance.runs)
    close_periods = async_method(purges.close_periods)
    reclaim_reservations = async_method(purges.reclaim_reservations)
    purge_sessions = async_method(purges.purge_sessions)
    purge_previews = async_method(purges.purge_previews)
    purge_claims = async_method(purges.purge_claims)
    purge_events = async_method(purges.purge_events)
    prune_snapshots = async_method(retention.prune_snapshots)
    collect_contents = async_method(retention.collect_contents)


class AsyncSchema(AsyncNamespace):
    """The schema and its migrations."""

    status = async_method(schema.status)
    check = async_method(schema.check)
    migrate = async_method(schema.migrate)
    server = async_method(schema.server)


class _Faces:
    """The topics of a client or of an open transaction."""

    def __init__(self, runner: AsyncRunner) -> None:
        self.users = AsyncUsers(runner)
        self.sessions = AsyncSessions(runner)
        self.projects = AsyncProjects(runner)
        self.builds = AsyncBuilds(runner)
        self.previews = AsyncPreviews(runner)
        self.usage = AsyncUsageLedger(runner)
        self.events = AsyncEvents(runner)
        self.schema = AsyncSchema(runner)
        self.notify = _Notices(runner).notify


class _Notices(AsyncNamespace):
    notify = async_method(notifications.notify)


class AsyncTransaction(_Faces):
    """The topics of a client, all in one open transaction; operations of several threads or tasks take turns.

    One that fails leaves the transaction as it was before it.
    """

    def __init__(self, runner: AsyncRunner) -> None:
        """Use `AsyncAtlas.transaction`."""
        super().__init__(runner)
        self.memory = AsyncTransactionMemory(runner)


class AsyncAtlas(_Faces):
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
        runner = _Late(self)
        super().__init__(runner)
        self.maintenance = AsyncMaintenance(runner)
        self.memory = AsyncMemory(runner)
        # A login behind the wall has no guards of its own: each copy reserves and settles as its user.
        row_security_applies = parent is not None and tenant is not None and parent._facts.row_security_applies  # noqa: SLF001  # of this class
        shared = None if parent is None or row_security_applies else parent.quotas
        self.quotas: AsyncQuotas = AsyncQuotas(runner, shared=shared, tenant=tenant)
        self._dsn = dsn
        self._options = options
        self._origin = origin or Origin()
        #: The one user that a copy acts for.
        self._tenant = tenant
        #: The client that this one is a copy of: connections are that one's.
        self._parent = parent
        self._login: Login | None = None
        self._opened: Opened | None = None
        self._driver: AsyncDriver | None = None

    @classmethod
    def open(cls, dsn: str | None = None, **options: Unpack[Options]) -> Self:
        """Return a client that connects when it is entered (`async with`) or by `connect()`.

        Without `dsn` and `home`, to the server that ATLAS_DATABASE_URL names. Where it names none, and with `home`, the
        embedded PostgreSQL is started or joined and its schema is migrated; it stops with its last user. The options
        are those of `Options`.
        """
        return cls(address(dsn, options), options)

    @classmethod
    @asynccontextmanager
    async def temporary(cls, **options: Unpack[Options]) -> AsyncIterator[Self]:
        """Return a client on a database of its own, for tests and examples: migrated, without rows, gone at the end.

        ::

            async with AsyncAtlas.temporary() as atlas:
                user = await atlas.users.create("ada@example.com")

        The first one of a process starts a PostgreSQL server, which takes a second or two; each further one costs a
        CREATE DATABASE. Nothing of it survives the process, however that ends, and no database of yours is touched. The
        options are those of `Options`, except `home`. Raises EmbeddedServerFailed, InvalidInput.
        """
        making = temporary(options)
        dsn, given = await asyncio.to_thread(making.__enter__)
        try:
            async with cls.open(dsn, **given) as atlas:
                yield atlas
        finally:
            await asyncio.to_thread(making.__exit__, None, None, None)

    async def connect(self) -> None:
        """Connect, and check that the schema is this version's. Idempotent.

        Raises DatabaseUnreachable, AuthenticationFailed, EmbeddedServerFailed, SchemaMismatch.
        """
        if self._parent is not None:
            await self._parent.connect()
            return
        if self._driver is not None:
            return
        opened = await asyncio.to_thread(prepare, self._dsn, self._options)
        driver = AsyncDriver(opened.config, opened.context)
        try:
            await driver.open()
            if opened.migrates:
                await driver.run(schema.migrate())
            else:
                await driver.run(schema.check())
            self._login = await driver.run(isolation.login())
        except BaseException:
            await driver.close()
            opened.release()
            raise
        self._opened, self._driver = opened, driver

    def _connected(self) -> tuple[Opened, AsyncDriver | AsyncView]:
        parent = self._parent or self
        opened, driver = parent._opened, parent._driver  # noqa: SLF001  # another object of this class
        if opened is None or driver is None:
            raise _unconnected()
        if self._parent is None:
            return opened, driver
        return opened, driver.lending(origin=self._origin, tenant=self._tenant)

    @property
    def _facts(self) -> Login:
        if self._parent is not None:
            return self._parent._facts  # noqa: SLF001  # another object of this class
        if self._login is None:
            raise _unconnected()
        return self._login

    @property
    def url(self) -> str:
        """The address of the database, for psql and the like; it may hold a password that the caller gave."""
        return self._connected()[0].config.dsn

    def keep_server_for(self, seconds: float) -> None:
        """Keep the embedded server up this long after its last user left; nothing for a server by DSN."""
        self._connected()[0].keep_for(seconds)

    def with_context(self, *, ip: Address | None = None, user_agent: str | None = None) -> "AsyncAtlas":
        """Return a light copy of this client for one request: what it does is audited with this address and agent.

        Not awaited. It shares the connections, and needs no close: its `close` does nothing. A copy of a copy keeps
        what it is not given. A long `user_agent` is cut to 1,024 characters. Raises InvalidInput for what is no IP
        address.
        """
        return self._copy(self._origin.but(ip=ip, user_agent=user_agent), self._tenant)

    def as_user(self, user: User | UUID) -> "AsyncAtlas":
        """Return a light copy of this client that acts for one user alone: no other tenant's rows exist for it.

        Not awaited. Every statement runs as the role `atlas_app` under row-level security, in the same round trip. What
        is a platform's to do (sign up, plans, limits, maintenance) raises NotPermitted, and so does a user that is not
        this one. It shares the connections and needs no close. Raises NotPermitted when this login cannot act so.
        """
        tenant = user if isinstance(user, UUID) else user.id
        isolation.check_can_act(self._facts, now=self._tenant, then=tenant)
        return self._copy(self._origin, tenant)

    def _copy(self, origin: Origin, tenant: UUID | None) -> "AsyncAtlas":
        return AsyncAtlas(self._dsn, self._options, origin=origin, tenant=tenant, parent=self._parent or self)

    def join(self, connection: "AsyncConnection[Any]") -> AsyncTransaction:
        """Return the topics of this client in a transaction of your own, on your own connection: one fate for both.

        Not awaited. You commit or roll back. An operation that fails leaves your transaction as it was before it. Of
        the same database as this client, with the tables in its search_path; with your login's rights. Raises
        InvalidInput outside of a transaction, and on a client that acts for one user.
        """
        if self._tenant is not None:
            raise InvalidInput("a client that acts for one user has its own transactions", field="connection")
        return AsyncTransaction(self._connected()[1].joined(connection))

    async def health(self) -> Health:
        """Return whether the database answers, how fast, and what it is; does not raise when it is down."""
        try:
            found = await self._connected()[1].run(health.look())
        except AtlasError as problem:
            found = Health(ok=False, problem=str(problem))
        opened = (self._parent or self)._opened  # noqa: SLF001  # another object of this class
        if opened is None:
            return found
        return evolve(found, pooler=opened.config.pooler, encrypted=opened.config.encrypted)

    def pool(self) -> PoolStats:
        """Return how many connections there are and what became of those who asked for one; asks no server.

        Not awaited.
        """
        return self._connected()[1].stats()

    def listen(self, *channels: str) -> AsyncListener:
        """Return what hears what `notify` sends on these channels, on a connection of its own.

        ::

            async with atlas.listen("builds") as notifications:
                await work_off(atlas)                              # what is there already
                async for found in notifications:                  # a Notification, or a Gap: then look again
                    await work_off(atlas)

        Not awaited. A client that acts for one user hears that user's own channels: what `as_user(user).notify` sends.
        It makes its connection again when that is lost, for as long as it takes; what was sent meanwhile
        is gone, so the next item is a Gap. `get(timeout_s=…)` waits for one item, `stop()` ends it from any thread, and
        so does the client's end. Needs the server's own address: entering raises InvalidInput behind a pooler in
        transaction mode.
        """
        return AsyncListener(self._connected()[0].config, channels, self._tenant)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """Run several operations in one transaction: all of them happen, or none."""
        async with self._connected()[1].transaction() as driver:
            yield AsyncTransaction(driver)

    async def close(self) -> None:
        """Settle what is left to settle, close every connection and leave the embedded server. Idempotent."""
        if self._parent is None and self._opened is not None and self._driver is not None:
            try:
                await self.quotas.close()
            finally:
                await self._driver.close()
                self._opened.release()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _unconnected() -> InvalidInput:
    return InvalidInput("connect first: use `async with AsyncAtlas.open() as atlas`", field="atlas")


class _Late:
    """Runs plans on the driver that the client gets when it connects."""

    def __init__(self, atlas: AsyncAtlas) -> None:
        self._atlas = atlas

    @property
    def retries(self) -> int:
        return self._atlas._connected()[1].retries  # noqa: SLF001  # the other half of one mechanism

    async def run(self, plan: Plan[T]) -> T:
        return await self._atlas._connected()[1].run(plan)  # noqa: SLF001  # the other half of one mechanism
