"""A lease for threads: blocks of a user's quota that this process spends by itself."""

import logging
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from atlas_sdk._namespaces import Runner
from atlas_sdk._plan import Script
from atlas_sdk._script import run_script
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.guards.block import LeaseRequest, nano_reserved
from atlas_sdk.guards.guard import Guard
from atlas_sdk.guards.lease_backend import LeaseBackend
from atlas_sdk.guards.lease_call import Call, LeaseCore, core_options
from atlas_sdk.guards.lease_manager import lease_manager
from atlas_sdk.guards.options import GuardOptions, check_lease_options
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, money

__all__ = ["Lease", "ThreadLeaseCore"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The end of a program may wait so long for a script that another thread runs.
_END_S = 10.0


class ThreadLeaseCore(LeaseCore):
    """The core of a lease for threads."""

    def __init__(self, runner: Runner, user: User, size: LeaseRequest | None, **options: Any) -> None:
        super().__init__(user, size, **options)
        self._runner = runner
        self._manager = lease_manager(runner)
        self._manager.register(self)

    def schedule(self) -> None:
        """Have the lease manager maintain this lease now."""
        self._manager.schedule(self)

    def grant(self, request: LeaseRequest) -> Call:
        """Grant a call its part, of a new block if need be. Raises QuotaExceeded, DatabaseUnreachable."""
        try:
            return self._admit(request)
        except QuotaExceeded:
            # Give back what lies idle in this process before a call is refused for it.
            if not self._manager.give_back(self.user, but=self):
                raise
        return self._admit(request)

    def _admit(self, request: LeaseRequest) -> Call:
        mine = False
        try:
            with self.changed:
                since = self.pool.begun
                while True:
                    admitted = self.pool.admit(request, since=since)
                    if admitted is not None:
                        return Call(self, *admitted, request.nano)
                    self.refuse_if_closed()
                    if not self.busy:
                        break
                    # One asks the database, for all who wait.
                    self.changed.wait()
                mine = self.busy = True
            return Call(self, *self._run(self.pool.refill(request)), request.nano)
        finally:
            if mine:
                self._finished()
                with self.lock:
                    if not self.empty:
                        self.schedule()

    def extend(self, call: Call, *, tokens: int, cost: Money, ttl: timedelta | None) -> None:
        """Grant a running call this much more. Raises QuotaExceeded, NotFound, DatabaseUnreachable."""
        tokens, nano = count("tokens", tokens, TOKENS_MAX), nano_reserved(money("cost", cost))
        self._run(self.pool.extend(call._block, tokens, nano, ttl))  # noqa: SLF001  # the call is of this lease
        with self.lock:
            call.tokens += tokens
            call.cost_nano += nano

    def _run(self, script: Script[T]) -> T:
        return run_script(self._runner, script, lock=self.lock)

    def _run_alone(self, script: Script[object]) -> None:
        """Run a script when no other one runs: only extensions run beside others."""
        mine = False
        try:
            with self.changed:
                while self.busy:
                    self.changed.wait()
                mine = self.busy = True
            self._run(script)
        finally:
            if mine:
                self._finished()

    def _finished(self) -> None:
        with self.changed:
            self.busy = False
            self.changed.notify_all()

    def run_maintenance(self) -> float | None:
        """Give back what is idle and settle what is due; return in how many seconds to come again."""
        with self.lock:
            idle_in_s = self.pool.retire_if_done()
            if self.busy:
                # The end of the script schedules the next maintenance.
                return None
            due_in_s = self.pool.due_in_s()
        if due_in_s == 0:
            self._run_alone(self.pool.maintain())
            with self.lock:
                due_in_s = self.pool.due_in_s()
        return min((s for s in (idle_in_s, due_in_s) if s is not None), default=None)

    def settle_due(self) -> None:
        """Settle now, for a lease of the client's own: a quiet process must hold nothing between calls."""
        if self.pool.size.fixed is None and self.pool.outbox:
            try:
                self._run_alone(self.pool.outbox.flush(due_only=True))
            finally:
                if self.pool.outbox:
                    self.schedule()

    def give_back(self) -> None:
        """Give back what no call needs."""
        if not self.empty:
            self._run_alone(self.pool.give_back())

    def close(self) -> None:
        """Admit no more calls, and settle."""
        self.closed = True
        with self.changed:
            while self.busy:
                self.changed.wait()
            self.pool.retire()
        self.give_back()
        if not self.empty:
            # Calls still run, or the database did not answer.
            self.schedule()

    def end(self) -> None:
        """Close; running calls are charged what they were granted, because the process ends before they can tell."""
        self.closed = True
        with self.changed:
            if not self.changed.wait_for(lambda: not self.busy, _END_S):
                logger.warning("a lease is left to the expiry of its blocks: the database does not answer")
                return
            self.pool.charge_running()
        if not self.empty:
            self._run_alone(self.pool.outbox.flush())


class Lease:
    """Spends blocks of a user's quota: about a microsecond a call instead of two round trips.

    ::

        with atlas.quotas.lease(user, tokens=50_000, requests=100) as lease:
            held = lease.reserve(4096)
            reply = call(max_tokens=held.tokens)
            held.settle(reply.total_tokens)

    The limits hold as they do without a lease, because a block is held in the database before it is spent. A crash
    costs what the process held: one block, and what running calls were granted. A call may take as long as it likes:
    heartbeats keep its part, and the rest of its block is given back. Share a lease between threads; a forked child
    starts without a block. The ledger has one entry a block, and not one a call.

    An idle block is given back after `idle_s`, the rest by `close`, by the client's `close`, or at the end of the
    interpreter. A process that ends by `os._exit`, as the children of multiprocessing do, closes its leases itself.
    """

    def __init__(self, runner: Runner, user: User, **options: Any) -> None:
        """Use `atlas.quotas.lease`, which has the same arguments."""
        self._core = ThreadLeaseCore(runner, user, **core_options(**options))

    def reserve(
        self,
        tokens: int = 0,
        *,
        min_tokens: int | None = None,
        cost: Money = 0,
        cost_nano: int = 0,
        requests: int | None = None,
    ) -> Call:
        """Grant a call its part. Raises QuotaExceeded, DatabaseUnreachable, InvalidInput.

        With `min_tokens` fewer are granted when fewer are left. `cost_nano` is in billionths of a dollar, and cheaper
        to calculate with than `cost`. `requests` is 1 by default, and 0 for a lease that was opened with `requests=0`.
        """
        core = self._core
        call = core.take(tokens, cost_nano) if min_tokens is None and requests is None and not cost else None
        return core.grant(core.request(tokens, min_tokens, cost, cost_nano, requests)) if call is None else call

    def guard(self, **options: Unpack[GuardOptions]) -> Guard:
        """Return a guard for one call that reserves from this lease.

        It takes `tokens`, `min_tokens`, `cost`, `requests` and `on_unknown`. A block has one entry in the ledger, with
        the lease's `meta`; the `meta` of a single call is not kept.
        """
        check_lease_options(options)
        return Guard(LeaseBackend(lambda _user, _options: self._core), self._core.user, options)

    def extend(self, call: Call, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Grant a running call this much more. Raises QuotaExceeded, NotFound, DatabaseUnreachable.

        With `ttl` its block is held for so long from now on.
        """
        self._core.extend(call, tokens=tokens, cost=cost, ttl=ttl)

    def give_back(self) -> None:
        """Give back what no call needs; what running calls were granted comes back when the last one ends."""
        self._core.give_back()

    def close(self) -> None:
        """Admit no more calls, and settle. Running calls are settled when the last one ends. Idempotent."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
