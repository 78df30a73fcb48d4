"""The blocking client."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from uuid import UUID

from attrs import evolve

from atlas_sdk._connect import Opened, Options, address, prepare
from atlas_sdk._drive import Driver, Listener
from atlas_sdk._maintaining import Maintaining
from atlas_sdk._namespaces import Namespace, Runner, sync_method
from atlas_sdk._temporary import temporary
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.methods import GuardMethods
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
    from psycopg import Connection

__all__ = [
    "Atlas",
    "Builds",
    "Events",
    "Maintenance",
    "Memory",
    "Previews",
    "Projects",
    "Quotas",
    "Schema",
    "Transaction",
    "TransactionMemory",
    "UsageLedger",
    "Users",
]


class Users(Namespace):
    """Users: the tenants."""

    create = sync_method(users.create)
    get = sync_method(users.get)
    by_email = sync_method(users.by_email)
    local = sync_method(users.local_user)
    find_local = sync_method(users.find_local)
    list = sync_method(users.list_all)
    set_plan = sync_method(users.set_plan)
    verify_email = sync_method(users.verify_email)
    update = sync_method(users.update)
    delete = sync_method(users.delete)
    authenticate = sync_method(auth.authenticate)
    set_password = sync_method(auth.set_password)
    usage_summary = sync_method(summaries.usage_summary)


class Sessions(Namespace):
    """Sign-in sessions: tokens that are valid until they expire or are revoked."""

    issue = sync_method(sessions.issue)
    verify = sync_method(sessions.verify)
    touch = sync_method(sessions.touch)
    revoke = sync_method(sessions.revoke)
    revoke_all = sync_method(sessions.revoke_all)
    list = sync_method(sessions.list_active)
    purge_expired = sync_method(sessions.purge_expired)


class Projects(Namespace):
    """Projects: the folders whose memory files are kept."""

    create = sync_method(projects.create)
    get = sync_method(projects.get)
    by_path = sync_method(projects.by_path)
    by_session = sync_method(projects.by_session)
    at = sync_method(projects.at)
    archive = sync_method(projects.archive)
    activate = sync_method(projects.activate)
    set_status = sync_method(projects.set_status)
    delete = sync_method(projects.delete)
    purge = sync_method(projects.purge)
    touch = sync_method(projects.touch)
    update_memory = sync_method(projects.update_memory)
    list = sync_method(projects.list_of)
    health = sync_method(summaries.health)


class TransactionMemory(Namespace):
    """Every version of every memory file: append, read, compare, name; what may be part of a transaction."""

    snapshot = sync_method(memory.snapshot)
    capture = sync_method(memory.capture)
    delete = sync_method(memory.delete)
    files = sync_method(memory.files)
    history = sync_method(memory.history)
    resolve = sync_method(references.resolve)
    version = sync_method(references.version)
    read = sync_method(references.read)
    content = sync_method(references.content)
    diff = sync_method(diffs.diff)
    checkpoint = sync_method(checkpoints.checkpoint)
    checkpoints = sync_method(checkpoints.checkpoints)
    plan_restore = sync_method(restore_plans.plan_restore)
    plan_undo = sync_method(restore_plans.plan_undo)
    plan_redo = sync_method(restore_plans.plan_redo)
    verify = sync_method(verify.verify)


class Memory(TransactionMemory):
    """Every version of every memory file: append, read, compare, name, restore.

    Restores are no part of transactions: files cannot be rolled back, so what stood there must be on record for good.
    """

    restore = sync_method(restores.restore)
    undo = sync_method(restores.undo)
    redo = sync_method(restores.redo)
    remove_leftovers = sync_method(leftovers.remove_leftovers)


class Quotas(GuardMethods):
    """Limits that hold: reserve before, settle after.

    No part of transactions: the lock on the user's limits would last as long as the call that is paid for.
    """

    reserve = sync_method(quotas.reserve)
    settle = sync_method(quotas.settle)
    release = sync_method(quotas.release)
    extend = sync_method(quotas.extend)
    progress = sync_method(quotas.progress)
    add_tokens = sync_method(quotas.add_tokens)
    lease_block = sync_method(quotas.lease_block)
    hit = sync_method(quotas.hit)
    usage = sync_method(quota_accounting.usage)
    get = sync_method(quota_accounting.usage)
    check = sync_method(quota_accounting.check)
    reservations = sync_method(quota_accounting.reservations)
    history = sync_method(quota_accounting.history)
    forecast = sync_method(quota_accounting.forecast)
    verify = sync_method(quota_accounting.verify)
    reset_monthly = sync_method(quota_accounting.reset_monthly)
    set_limits = sync_method(limits.set_limits)
    use_plan_limits = sync_method(limits.use_plan_limits)
    set_time_zone = sync_method(limits.set_time_zone)
    plans = sync_method(limits.plans)
    plan_limits = sync_method(limits.plan_limits)
    add_plan = sync_method(limits.add_plan)
    set_plan_limits = sync_method(limits.set_plan_limits)
    grant = sync_method(limits.grant)
    grants = sync_method(limits.grants)
    memory = sync_method(memory_usage.memory)
    record_memory_threshold = sync_method(memory_usage.record_memory_threshold)


class Builds(Namespace):
    """Builds: queued, running, succeeded or failed, and their logs."""

    create = sync_method(builds.create)
    start = sync_method(builds.start)
    succeed = sync_method(builds.succeed)
    fail = sync_method(builds.fail)
    append_log = sync_method(builds.append_log)
    log = sync_method(builds.log)
    get = sync_method(builds.get)
    list = sync_method(builds.list_of)
    stats = sync_method(builds.stats)


class Previews(Namespace):
    """Previews: containers that serve a project at a host."""

    create = sync_method(previews.create)
    set_status = sync_method(previews.set_status)
    stop = sync_method(previews.stop)
    touch = sync_method(previews.touch)
    put_to_sleep_idle = sync_method(previews.put_to_sleep_idle)
    allocate_port = sync_method(previews.allocate_port)
    release_port = sync_method(previews.release_port)
    active = sync_method(previews.active)
    by_host = sync_method(previews.by_host)
    get = sync_method(previews.get)
    list = sync_method(previews.list_of)


class UsageLedger(Namespace):
    """The ledger of what was used: entries beside the quotas, and sums over all."""

    log = sync_method(usage.log)
    totals = sync_method(usage.totals)


class Events(Namespace):
    """The audit trail."""

    log = sync_method(events.log)
    recent = sync_method(events.recent)
    search = sync_method(events.search)


class Maintenance(Maintaining):
    """Maintenance of the database for all users: single jobs, and all of them.

    No part of transactions: each job commits batch by batch.
    """

    runs = sync_method(maintenance.runs)
    close_periods = sync_method(purges.close_periods)
    reclaim_reservations = sync_method(purges.reclaim_reservations)
    purge_sessions = sync_method(purges.purge_sessions)
    purge_previews = sync_method(purges.purge_previews)
    purge_claims = sync_method(purges.purge_claims)
    purge_events = sync_method(purges.purge_events)
    prune_snapshots = sync_method(retention.prune_snapshots)
    collect_contents = sync_method(retention.collect_contents)


class Schema(Namespace):
    """The schema and its migrations."""

    status = sync_method(schema.status)
    check = sync_method(schema.check)
    migrate = sync_method(schema.migrate)
    server = sync_method(schema.server)


class _Faces:
    """The topics of a client or of an open transaction."""

    def __init__(self, runner: Runner) -> None:
        self.users = Users(runner)
        self.sessions = Sessions(runner)
        self.projects = Projects(runner)
        self.builds = Builds(runner)
        self.previews = Previews(runner)
        self.usage = UsageLedger(runner)
        self.events = Events(runner)
        self.schema = Schema(runner)
        self.notify = _Notices(runner).notify


class _Notices(Namespace):
    notify = sync_method(notifications.notify)


class Transaction(_Faces):
    """The topics of a client, all in one open transaction; operations of several threads or tasks take turns.

    One that fails leaves the transaction as it was before it.
    """

    def __init__(self, runner: Runner) -> None:
        """Use `Atlas.transaction`."""
        super().__init__(runner)
        self.memory = TransactionMemory(runner)


class Atlas(_Faces):
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
        #: The one user that a copy acts for.
        self._tenant = tenant
        #: Runs the plans; the driver itself, but for a copy, which lends them where its request came from and for whom.
        self._runner = driver if parent is None else driver.lending(origin=self._origin, tenant=tenant)
        super().__init__(self._runner)
        self.maintenance = Maintenance(self._runner)
        self.memory = Memory(self._runner)
        # A login behind the wall has no guards of its own: each copy reserves and settles as its user.
        shared = None if parent is None or (tenant is not None and login.row_security_applies) else parent.quotas
        self.quotas: Quotas = Quotas(self._runner, shared=shared, tenant=tenant)
        #: The client that this one is a copy of.
        self._parent = parent

    @classmethod
    def open(cls, dsn: str | None = None, **options: Unpack[Options]) -> Self:
        """Connect, and check that the schema is this version's.

        Without `dsn` and `home`, to the server that ATLAS_DATABASE_URL names. Where it names none, and with `home`, the
        embedded PostgreSQL is started or joined and its schema is migrated; it stops with its last user. The options
        are those of `Options`. Raises DatabaseUnreachable, AuthenticationFailed, EmbeddedServerFailed, SchemaMismatch.
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
    @contextmanager
    def temporary(cls, **options: Unpack[Options]) -> Iterator[Self]:
        """Return a client on a database of its own, for tests and examples: migrated, without rows, gone at the end.

        ::

            with Atlas.temporary() as atlas:
                user = atlas.users.create("ada@example.com")

        The first one of a process starts a PostgreSQL server, which takes a second or two; each further one costs a
        CREATE DATABASE. Nothing of it survives the process, however that ends, and no database of yours is touched. The
        options are those of `Options`, except `home`. Raises EmbeddedServerFailed, InvalidInput.
        """
        with temporary(options) as (dsn, given), cls.open(dsn, **given) as atlas:
            yield atlas

    @property
    def url(self) -> str:
        """The address of the database, for psql and the like; it may hold a password that the caller gave."""
        return self._opened.config.dsn

    def keep_server_for(self, seconds: float) -> None:
        """Keep the embedded server up this long after its last user left; nothing for a server by DSN."""
        self._opened.keep_for(seconds)

    def with_context(self, *, ip: Address | None = None, user_agent: str | None = None) -> "Atlas":
        """Return a light copy of this client for one request: what it does is audited with this address and agent.

        ::

            atlas.with_context(ip=request.client.host, user_agent=request.headers["user-agent"]).users.create(…)

        It shares the connections, and needs no close: its `close` does nothing. A copy of a copy keeps what it is not
        given. A long `user_agent` is cut to 1,024 characters. Raises InvalidInput for what is no IP address.
        """
        return self._copy(self._origin.but(ip=ip, user_agent=user_agent), self._tenant)

    def as_user(self, user: User | UUID) -> "Atlas":
        """Return a light copy of this client that acts for one user alone: no other tenant's rows exist for it.

        ::

            tenant = atlas.as_user(user)
            tenant.projects.list(user)

        Every statement runs as the role `atlas_app` under row-level security, in the same round trip. What is a
        platform's to do (sign up, plans, limits, maintenance) raises NotPermitted, and so does a user that is not this
        one. It shares the connections and needs no close. Raises NotPermitted when this login cannot act so.
        """
        tenant = user if isinstance(user, UUID) else user.id
        isolation.check_can_act(self._login, now=self._tenant, then=tenant)
        return self._copy(self._origin, tenant)

    def _copy(self, origin: Origin, tenant: UUID | None) -> "Atlas":
        parent = self._parent or self
        return Atlas(self._opened, self._driver, self._login, origin=origin, tenant=tenant, parent=parent)

    def join(self, connection: "Connection[Any]") -> Transaction:
        """Return the topics of this client in a transaction of your own, on your own connection: one fate for both.

        ::

            with psycopg.connect(…) as connection:                    # a transaction of yours
                connection.execute("INSERT INTO orders …")
                atlas.join(connection).events.log("order.placed", user=user)

        You commit or roll back. An operation that fails leaves your transaction as it was before it. Of the same
        database as this client, with the tables in its search_path; with your login's rights. Raises InvalidInput
        outside of a transaction, and on a client that acts for one user.
        """
        if self._tenant is not None:
            raise InvalidInput("a client that acts for one user has its own transactions", field="connection")
        return Transaction(self._runner.joined(connection))

    def health(self) -> Health:
        """Return whether the database answers, how fast, and what it is; does not raise when it is down."""
        config = self._opened.config
        try:
            found = self._driver.run(health.look())
        except AtlasError as problem:
            found = Health(ok=False, problem=str(problem))
        return evolve(found, pooler=config.pooler, encrypted=config.encrypted)

    def pool(self) -> PoolStats:
        """Return how many connections there are and what became of those who asked for one; asks no server."""
        return self._driver.stats()

    def listen(self, *channels: str) -> Listener:
        """Return what hears what `notify` sends on these channels, on a connection of its own.

        ::

            with atlas.listen("builds") as notifications:
                work_off(atlas)                                    # what is there already
                for found in notifications:                        # a Notification, or a Gap: then look again
                    work_off(atlas)

        A client that acts for one user hears that user's own channels: what `as_user(user).notify` sends.
        It makes its connection again when that is lost, for as long as it takes; what was sent meanwhile is gone, so
        the next item is a Gap. `get(timeout_s=…)` waits for one item, `stop()` ends it from any thread, and so does the
        client's end. Needs the server's own address: entering raises InvalidInput behind a pooler in transaction mode.
        """
        return Listener(self._opened.config, channels, self._tenant)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Run several operations in one transaction: all of them happen, or none.

        ::

            with atlas.transaction() as tx:
                project = tx.projects.create(user, path="/srv/app")
                tx.memory.snapshot(project, "CLAUDE.md", b"# Rules")
        """
        with self._runner.transaction() as driver:
            yield Transaction(driver)

    def close(self) -> None:
        """Settle what is left to settle, close every connection and leave the embedded server. Idempotent."""
        if self._parent is not None:
            return
        try:
            self.quotas.close()
        finally:
            self._driver.close()
            self._opened.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
