"""The kinds of use that race for the same limits. No job uses more than its reservation."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from atlas_sdk import Atlas, DatabaseUnreachable, NotFound, QuotaExceeded, SlotLost, TransactionConflict, User
from atlas_sdk.guards import Guard, GuardOptions, Lease
from benchmarks.race_quotas.journal import Journal, Outcome, Paid, Stay, nano

LONGEST_TTL = timedelta(seconds=4)
#: Numbers per hundred jobs.
_SHARES = {
    "guard": 20, "automatic": 10, "stream": 14, "abandoned": 6, "lease": 15, "slot": 7, "hit": 18, "wait": 10
}  # fmt: skip
#: A call that waits longer than this beyond its time was stopped by the race, or forgotten.
_LATE_S = 10.0
#: The first user gets this share of the jobs.
_HOT = 0.5
_CENT_NANO = 10_000_000


class _CallFailed(Exception):
    """An error of a body, which guards must not swallow."""


class Jobs:
    """Jobs for random users, one after the other."""

    def __init__(self, atlas: Atlas, users: Sequence[User], dice: random.Random, journal: Journal) -> None:
        self._quotas = atlas.quotas
        self._users = users
        self._dice = dice
        self._journal = journal
        self._leases: dict[int, Lease] = {}
        self._kinds: dict[str, Callable[[int], str]] = {kind: getattr(self, f"_{kind}") for kind in _SHARES}

    def one(self) -> None:
        """Run a job and note its outcome. An unexpected exception ends the worker."""
        kind = self._dice.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
        user = 0 if self._dice.random() < _HOT else self._dice.randrange(len(self._users))
        try:
            end = self._kinds[kind](user)
        except QuotaExceeded as refusal:
            end = f"refused: {refusal.dimension}"
            self._think(0.05)
        except DatabaseUnreachable:
            end = "database unreachable"
            self._think(0.1)
        except TransactionConflict:
            end = "conflict"
        except NotFound:
            # The reservation expired before it was extended.
            end = "expired"
        self._journal.note(Outcome(kind, end))

    def close(self) -> None:
        """Give the leases' blocks back."""
        for lease in self._leases.values():
            lease.close()

    def _think(self, mean_s: float) -> None:
        # The pause stands for the time of the provider and of the rest of the program.
        time.sleep(min(self._dice.expovariate(1 / mean_s), 10 * mean_s))

    def _cost(self) -> Decimal:
        return Decimal(self._dice.randrange(_CENT_NANO)) / 10**9

    def _ask(self) -> GuardOptions:
        dice = self._dice
        ask: GuardOptions = {"tokens": dice.randint(10, 2000), "ttl": LONGEST_TTL}
        if dice.random() < 0.5:
            ask["min_tokens"] = dice.randint(1, ask["tokens"])
        if dice.random() < 0.6:
            ask["cost"] = self._cost()
        if dice.random() < 0.1:
            ask["builds"] = 1
        return ask

    def _part(self, cost: Decimal) -> Decimal:
        return Decimal(self._dice.randint(0, nano(cost))) / 10**9

    def _note_paid(self, user: int, guard: Guard, used: tuple[int, Decimal] | None, *, lease: bool = False) -> None:
        """Note the usage reported to the guard, or else the guard's settlement."""
        answer = guard.settlement
        if answer is not None:
            tokens, cost = used or (answer.tokens, answer.cost)
            self._journal.note(Paid(user, str(guard.id), tokens, nano(cost), not lease))

    def _guard(self, user: int, *, lease: bool = False, wait: timedelta | None = None) -> str:
        ask = self._ask()
        ask["wait"] = wait
        late = self._dice.random() < 0.02 and not lease
        if late:
            ask["ttl"] = timedelta(seconds=0.5)
        if lease:
            ask.pop("builds", None)
            ask["lease"] = True
        ask["on_unknown"] = "release" if self._dice.random() < 0.3 else "charge"
        guard = self._quotas.guard(self._users[user], **ask)
        asked = time.monotonic()
        end = self._dice.choices(("settled", "forgotten", "released", "raised"), (85, 6, 5, 4))[0]
        used = None
        try:
            with guard as g:
                self._journal.granted(user, g.id, g.epoch, asked, requests=1, builds=ask.get("builds", 0))
                self._think(0.03)
                if late:
                    self._think(0.5)
                used = self._end(g, end)
        except _CallFailed:
            pass
        self._note_paid(user, guard, used, lease=lease)
        return f"{end}, late" if late else end

    def _end(self, guard: Guard, end: str) -> tuple[int, Decimal] | None:
        if end == "settled":
            tokens, cost = self._dice.randint(0, guard.tokens), self._part(guard.cost)
            guard.settle(tokens=tokens, cost=cost)
            return tokens, cost
        if end == "released":
            guard.release()
        elif end == "raised":
            raise _CallFailed
        return None

    def _wait(self, user: int) -> str:
        wait = timedelta(seconds=self._dice.uniform(0.2, 3))
        asked = time.monotonic()
        try:
            return (
                f"{self._guard(user, wait=wait)} after its turn"
                if self._dice.random() < 0.8
                else self._slot(user, wait)
            )
        except QuotaExceeded as refusal:
            if refusal.waited is None:
                raise
            late = time.monotonic() - asked - wait.total_seconds()
            return "waited in vain" if late < _LATE_S else f"waited {late:.0f} s too long"

    def _automatic(self, user: int) -> str:
        end = ""
        # Make several calls in a row, because only many calls a second get blocks for several calls.
        for _ in range(self._dice.randint(1, 30)):
            end = self._guard(user, lease=True)
        return end

    def _stream(self, user: int) -> str:
        guard = self._quotas.guard(self._users[user], **self._ask())
        asked = time.monotonic()
        end, told = "cut", None
        with guard as g:
            self._journal.granted(user, g.id, g.epoch, asked, requests=1, builds=0)
            used = 0
            for _ in range(self._dice.randint(1, 5)):
                self._think(0.02)
                used = self._dice.randint(used, g.tokens)
                g.progress(tokens=used)
                if self._dice.random() < 0.3:
                    g.extend(tokens=self._dice.randint(1, 500), ttl=LONGEST_TTL)
            if self._dice.random() < 0.5:
                end, told = "settled", (used, self._part(g.cost))
                g.settle(tokens=told[0], cost=told[1])
        self._note_paid(user, guard, told)
        return end

    def _abandoned(self, user: int) -> str:
        ask = self._ask()
        ask.pop("builds", None)
        asked = time.monotonic()
        held = self._quotas.reserve(
            self._users[user],
            tokens=ask["tokens"],
            min_tokens=ask.get("min_tokens"),
            cost=ask.get("cost", 0),
            ttl=timedelta(seconds=self._dice.uniform(0.2, 2)),
        )
        self._journal.granted(user, held.id, held.epoch, asked, requests=1)
        if self._dice.random() < 0.5:
            self._quotas.progress(self._users[user], held.id, tokens=self._dice.randint(0, held.tokens))
        return "never settled"

    def _lease(self, user: int) -> str:
        lease = self._leases.get(user)
        if lease is None:
            lease = self._leases[user] = self._quotas.lease(
                self._users[user], tokens=3000, cost=_CENT_NANO * 5 * Decimal("1e-9"), requests=20, ttl=LONGEST_TTL,
                idle_s=0.3,
            )  # fmt: skip
        paid: dict[UUID, tuple[int, int]] = {}
        try:
            for _ in range(self._dice.randint(5, 60)):
                asked = time.monotonic()
                call = lease.reserve(self._dice.randint(1, 100), cost_nano=self._dice.randint(0, 100_000))
                # Every call is a request; a block is one reservation, with one epoch.
                self._journal.granted(user, call.id, call.epoch, asked, requests=1)
                if self._dice.random() < 0.02:
                    self._think(0.05)
                tokens, spent = self._dice.randint(0, call.tokens), self._dice.randint(0, call.cost_nano)
                call.settle(tokens, cost_nano=spent)
                before = paid.get(call.id, (0, 0))
                paid[call.id] = before[0] + tokens, before[1] + spent
        finally:
            for block, (tokens, spent) in paid.items():
                self._journal.note(Paid(user, str(block), tokens, spent, False))
        return "settled"

    def _slot(self, user: int, wait: timedelta | None = None) -> str:
        asked = time.monotonic()
        with self._quotas.slot(self._users[user], ttl=timedelta(seconds=2), wait=wait) as slot:
            since = time.monotonic()
            self._journal.granted(user, slot.id, slot.epoch, asked)
            until = since + min(self._dice.expovariate(1), 5)
            while True:
                # Take the time before the check, so that the slot was ours at this time.
                now = time.monotonic()
                try:
                    slot.check()
                except SlotLost:
                    return "lost"
                self._journal.note(Stay(user, slot.epoch or 0, since, now))
                if now >= until:
                    return "released"
                time.sleep(0.05)

    def _hit(self, user: int) -> str:
        requests = self._dice.choice((1, 1, 1, 2, 5))
        asked = time.monotonic()
        self._quotas.hit(self._users[user], requests=requests)
        # A hit has no reservation and no id, so the epoch 0 marks its entry.
        self._journal.granted(user, UUID(int=0), 0, asked, requests=requests)
        return "admitted"
