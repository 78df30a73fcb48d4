"""A lease for threads: blocks of a user's quota that this process spends without queries."""

import logging
from datetime import timedelta
from typing import Any, Self, TypeVar, Unpack

from atlas_sdk._namespaces import Runner
from atlas_sdk._plan import Script
from atlas_sdk._script import run_script
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.guards.block import LeaseRequest
from atlas_sdk.guards.guard import Guard
from atlas_sdk.guards.lease_call import LeaseCall, LeaseCore, core_options, end_call
from atlas_sdk.guards.lease_manager import lease_manager
from atlas_sdk.guards.options import GuardOptions, check_lease_options
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["Lease", "ThreadLeaseCore"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds that the end of a program waits for a script of another thread.
_END_S = 10.0


class ThreadLeaseCore(LeaseCore):
    """The core of a lease for threads."""

    def __init__(self, runner: Runner, user: User, size: LeaseRequest | None, **options: Any) -> None:
        super().__init__(user, size, **options)
        self._runner = runner
        self._manager = lease_manager(runner)
        self._manager.register(self)

    def schedule(self) -> None:
        """Ask the lease manager to maintain this lease now."""
        self._manager.schedule(self)

    def grant(self, request: LeaseRequest) -> LeaseCall:
        """Reserve a part of the current or a new block for a call. Raises QuotaExceeded, DatabaseUnreachable."""
        try:
            return self._admit(request)
        except QuotaExceeded as refusal:
            self._manager.make_room(self.user, refusal, but=self)
        return self._admit(request)

    def _admit(self, request: LeaseRequest) -> LeaseCall:
        mine = False
        try:
            with self.changed:
                since = self.pool.begun
                while True:
                    admitted = self.pool.admit(request, since=since)
                    if admitted is not None:
                        return LeaseCall(self, *admitted, request.nano)
                    self.refuse_if_closed()
                    if not self.busy:
                        break
                    # Another thread is asking the database for a block. Every waiting call may use the answer.
                    self.changed.wait()
                mine = self.busy = True
            return LeaseCall(self, *self._run(self.pool.refill(request)), request.nano)
        finally:
            if mine:
                self._finished()
                with self.lock:
                    if not self.empty:
                        self.schedule()

    def reserve(self, _user: User, options: GuardOptions, _wait: WaitSchedule | None = None) -> LeaseCall:
        return self.grant(self.request_of(options))

    def settle(self, _user: User, grant: LeaseCall, outcome: Outcome) -> Settlement:
        settlement = end_call(grant, outcome)
        if self.pool.size.fixed is None and self.pool.outbox:
            # The client made this lease for its guards. An idle process must hold nothing between their calls.
            try:
                self._run_alone(self.pool.outbox.flush(due_only=True))
            finally:
                if self.pool.outbox:
                    self.schedule()
        return settlement

    def extend(self, _user: User, grant: LeaseCall, *, tokens: int, cost: Money, ttl: timedelta | None) -> LeaseCall:
        return self._run(self.extension(grant, tokens, cost, ttl))

    def _run(self, script: Script[T]) -> T:
        return run_script(self._runner, script, lock=self.lock)

    def _run_alone(self, script: Script[object]) -> None:
        """Wait for the running script, then run this one. Only extensions may run at the same time as others."""
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
        """Give back idle blocks and write due settlements; return the seconds until the next maintenance."""
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

    def give_back(self) -> None:
        """Give back the unused parts of all blocks."""
        if not self.empty:
            self._run_alone(self.pool.give_back())

    def close(self) -> None:
        """Refuse new calls, and give back the unused parts of all blocks."""
        self.closed = True
        self._run_alone(self.closing())
        if not self.empty:
            # Calls still run, or the database did not answer.
            self.schedule()

    def end(self) -> None:
        """Close the lease, and charge running calls their whole grant: the process ends before they report usage."""
        self.closed = True
        with self.changed:
            if not self.changed.wait_for(lambda: not self.busy, _END_S):
                logger.warning("a lease is left to the expiry of its blocks: the database does not answer")
                return
            self.pool.charge_running()
        if not self.empty:
            self._run_alone(self.pool.outbox.flush())


class Lease:
    """A lease, which spends blocks of a user's quota. A call takes about a microsecond instead of two round trips.

    ::

        with atlas.quotas.lease(user, tokens=50_000, requests=100) as lease:
            held = lease.reserve(4096)
            reply = call(max_tokens=held.tokens)
            held.settle(reply.total_tokens)

    The limits hold as without a lease, because the database reserves a block before the process spends it. A crash
    costs the amounts that the process holds: one block, and the grants of running calls. A call may take any time:
    heartbeats keep its part, and the lease gives the rest of its block back. Threads may share a lease. A forked child
    starts without a block. The ledger has one entry per block, not per call.

    A lease gives an idle block back after `idle_s`, and everything at `close`, at the client's `close`, or at the end
    of the interpreter. A process that ends by `os._exit`, as the children of multiprocessing do, must close its leases.
    """

    def __init__(self, runner: Runner, user: User, **options: Any) -> None:
        """Use `atlas.quotas.lease`, which has the same arguments."""
        self._core = ThreadLeaseCore(runner, user, **core_options(**options))

    def __repr__(self) -> str:
        state = "closed" if self._core.closed else "open"
        return f"<{type(self).__name__} for {self._core.user.email}; {state}>"

    def reserve(
        self,
        tokens: int = 0,
        *,
        min_tokens: int | None = None,
        cost: Money = 0,
        cost_nano: int = 0,
        requests: int | None = None,
    ) -> LeaseCall:
        """Reserve a part of a block for one call. Raises QuotaExceeded, DatabaseUnreachable, InvalidInput.

        With `min_tokens`, the call gets fewer tokens if fewer are left, but at least that many. `cost_nano` is in
        billionths of a dollar; it is faster than `cost`. `requests` defaults to 1, and to 0 for a lease that was opened
        with `requests=0`.
        """
        core = self._core
        call = core.take(tokens, cost_nano) if min_tokens is None and requests is None and not cost else None
        return core.grant(core.request(tokens, min_tokens, cost, cost_nano, requests)) if call is None else call

    def guard(self, **options: Unpack[GuardOptions]) -> Guard:
        """Return a guard for one call that reserves from this lease.

        Its options are `tokens`, `min_tokens`, `cost`, `requests` and `on_unknown`. The ledger has one entry per block,
        with the lease's `meta`; it does not store the `meta` of a single call.
        """
        check_lease_options(options)
        return Guard(self._core, self._core.user, options)

    def extend(self, call: LeaseCall, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Add these amounts to the grant of a running call. Raises QuotaExceeded, NotFound, DatabaseUnreachable.

        With `ttl`, the call's block expires `ttl` from now.
        """
        self._core.extend(self._core.user, call, tokens=tokens, cost=cost, ttl=ttl)

    def give_back(self) -> None:
        """Give back the unused parts of all blocks. The grants of running calls stay until the calls end."""
        self._core.give_back()

    def close(self) -> None:
        """Refuse new calls, and settle. A block with running calls is settled after its last call. Idempotent."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
