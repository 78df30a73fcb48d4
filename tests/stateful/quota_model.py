"""A model of one user's quota: its state after any sequence of operations."""

from __future__ import annotations

from uuid import UUID

from attrs import define, field

#: The limit of requests an hour in every plan.
HOURLY = 20
#: The limits of tokens a month and of containers in each plan.
PLANS = {"small": (100, 2), "large": (250, 3), "endless": (None, None)}


@define
class Hold:
    """A reservation as the model knows it."""

    tokens: int
    slots: int
    #: The number of requests that a block may make; 0 for a reservation that is no block.
    requests: int = 0
    #: The holder of a block.
    holder: str | None = None
    progressed: int = 0
    overdue: bool = False
    #: "held", then "settled", "expired" or "released".
    state: str = "held"
    #: The charged tokens.
    charged: int = 0
    #: Periods that have ended since it was granted.
    age: int = 0

    @property
    def requests_counted(self) -> int:
        """The requests to count if the caller does not say how many were made."""
        return 0 if self.state == "released" else self.requests


@define
class Waiter:
    """A waiting call as the model knows it."""

    tokens: int
    least: int
    slots: int
    requests: int


@define
class TopUp:
    """A grant as the model knows it."""

    id: UUID
    tokens: int
    expires: bool
    burned: int = 0
    overdue: bool = False


@define
class Month:
    """The tokens that the end of a month charged to the top-ups that stay open, the soonest to expire first."""

    burned: list[tuple[TopUp, int]] = field(factory=list)
    #: The used tokens that exceeded the allowance and all top-ups.
    unpaid: int = 0


@define
class Model:
    """The state that the database must have."""

    #: The limit of tokens without top-ups.
    base: int | None = 100
    slots_limit: int | None = 2
    requests_limit: int | None = HOURLY
    plan: str = "small"
    by_hand: bool = False
    holds: dict[UUID, Hold] = field(factory=dict)
    #: The tokens charged without a reservation, in this period and in earlier ones.
    added: int = 0
    added_before: int = 0
    requests: int = 0
    #: The open top-ups, the tokens that they add to the limit, and those of them that are used up for good.
    top_ups: list[TopUp] = field(factory=list)
    granted: int = 0
    burned: int = 0
    #: Ended months, the newest first.
    months: list[Month] = field(factory=list)
    #: The waiting calls, the first that came first.
    queue: dict[UUID, Waiter] = field(factory=dict)

    @property
    def limit(self) -> int | None:
        return None if self.base is None else self.base + self.granted

    def open(self) -> list[Hold]:
        return [hold for hold in self.holds.values() if hold.state == "held"]

    def held(self) -> int:
        return sum(hold.tokens for hold in self.open() if not hold.age)

    def used(self) -> int:
        return self.added + sum(hold.charged for hold in self.holds.values() if not hold.age)

    def slots(self) -> int:
        return sum(hold.slots for hold in self.open())

    def requests_held(self) -> int:
        return sum(hold.requests for hold in self.open())

    def overdue(self) -> list[Hold]:
        return [hold for hold in self.open() if hold.overdue]

    def left(self) -> int:
        return 10**12 if self.limit is None else self.limit - self.used() - self.held()

    def requests_left(self) -> int:
        return 10**6 if self.requests_limit is None else self.requests_limit - self.requests - self.requests_held()

    def fits(self, least: int, slots: int, requests: int = 0) -> str | None:
        """Return the dimension whose limit refuses; None if the amounts fit."""
        if least > 0 and least > self.left():
            return "tokens"
        if slots > 0 and self.slots_limit is not None and self.slots() + slots > self.slots_limit:
            return "containers"
        return "requests" if requests > 0 and requests > self.requests_left() else None

    def refuses(self, least: int, slots: int, requests: int) -> str | None:
        """Return the dimension whose limit refuses after overdue reservations have ended; None if the amounts fit."""
        if self.fits(least, slots, requests) is not None:
            self.reclaim()
        return self.fits(least, slots, requests)

    def never_fits(self, waiter: Waiter) -> str | None:
        """Return the dimension whose limit refuses a call however long it waits; None if waiting may help."""
        if self.limit is not None and waiter.least > self.limit:
            return "tokens"
        if self.slots_limit is not None and waiter.slots > self.slots_limit:
            return "containers"
        # The requests of the hour come back too late, those of blocks may come back at any moment.
        if waiter.requests > self.requests_left() and (
            not self.requests_held() or waiter.requests > (self.requests_limit or 0)
        ):
            return "requests"
        return None

    def share(self, want: int, least: int, left: int, limit: int | None, holder: str) -> int:
        holders = {hold.holder for hold in self.open() if hold.holder} | {holder}
        return want if limit is None else min(want, max(least, left // (2 * len(holders))))

    def end(self, hold: Hold, state: str, charged: int, requests: int) -> None:
        self.change(hold, charged - (hold.tokens if hold.state == "held" else hold.charged))
        hold.state, hold.charged = state, charged
        self.requests += requests

    def reclaim(self) -> None:
        for hold in self.open():
            if hold.overdue:
                self.end(hold, "expired", hold.tokens, hold.requests)

    def burn(self, *, period_ends: bool) -> None:
        """Charge the tokens over the allowance to top-ups, the soonest to expire first; drop expired top-ups."""
        over = 0 if self.base is None else max(self.used() + self.held() - self.base - self.burned, 0)
        lost = 0
        month = Month()
        for top_up in sorted(self.top_ups, key=lambda known: (not known.overdue, not known.expires, known.id)):
            if not (top_up.overdue or period_ends):
                continue
            taken = min(over, top_up.tokens - top_up.burned)
            over, self.burned, top_up.burned = over - taken, self.burned + taken, top_up.burned + taken
            lost += top_up.tokens - top_up.burned if top_up.overdue else 0
            if not top_up.overdue:
                month.burned.append((top_up, taken))
        month.unpaid = over
        self.granted -= lost
        if period_ends:
            self.months.insert(0, month)
            self.granted = sum(known.tokens - known.burned for known in self.top_ups if not known.overdue)
            self.burned = 0
        self.top_ups = [known for known in self.top_ups if not known.overdue]

    def change(self, hold: Hold, tokens: int) -> None:
        """Change the charge of a reservation of an earlier month. A lower charge gives tokens back to the top-ups."""
        if not hold.age:
            return
        month = self.months[hold.age - 1]
        back = max(-tokens - month.unpaid, 0)
        month.unpaid = max(month.unpaid + tokens, 0)
        # Return to the top-up that expires last first. One that has expired meanwhile expired before the others.
        for number, (top_up, taken) in sorted(
            enumerate(month.burned), key=lambda numbered: (numbered[1][0].overdue, -numbered[0])
        ):
            given = min(back, taken)
            back, month.burned[number], top_up.burned = back - given, (top_up, taken - given), top_up.burned - given
            self.granted += 0 if top_up.overdue else given

    def take_plan(self) -> None:
        if not self.by_hand:
            self.base, self.slots_limit = PLANS[self.plan]
