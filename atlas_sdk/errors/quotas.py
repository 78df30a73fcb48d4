"""The errors of quotas, with the sentence and the header fields of a refusal."""

import math
from datetime import datetime, timedelta
from decimal import Decimal

from atlas_sdk.errors.base import AtlasError
from atlas_sdk.text import digits

__all__ = ["QuotaExceeded", "SlotLost"]

#: The HTTP status Too Many Requests.
_TOO_MANY = 429
#: The advice on how to make room for one more object, for objects that stay until somebody ends them.
_ENDED = {"projects": "delete one", "sessions": "revoke one", "previews": "stop one"}
#: Dimensions that free up by themselves soon.
_FREED_SOON = frozenset({"requests", "containers"})
#: The parts of a policy beside its quota: the window `w` in seconds, if all windows have the same length, and the unit
#: `qu`, if it is not requests and the draft has a word for it.
_POLICIES = {
    "requests": ";w=3600",
    "builds": ";w=86400",
    "containers": ';qu="concurrent-requests"',
    "memory_bytes": ';qu="content-bytes"',
    "cost": ';atlas-unit="cents"',
}
#: The greatest integer of a structured field (RFC 9651, 3.3.1).
_INTEGER_MAX = 999_999_999_999_999


class QuotaExceeded(AtlasError):
    """A limit does not allow the requested amount; nothing was reserved in any dimension."""

    exit_code = 4

    def __init__(
        self,
        *,
        dimension: str,
        asked: int | Decimal,
        remaining: int | Decimal,
        limit: int | Decimal | None = None,
        retry_after: timedelta | None = None,
        resets_at: datetime | None = None,
        holders: tuple[str, ...] = (),
        held: int | Decimal | None = None,
        waited: timedelta | None = None,
    ) -> None:
        sentence = _sentence(dimension, asked, remaining, limit, retry_after, resets_at, held)
        super().__init__(sentence if waited is None else f"after a wait of {_spoken(waited)}, {sentence}")
        #: "tokens", "cost", "builds", "containers", "requests" or "memory_bytes". For objects of which a user may have
        #: a limited number at one time: "projects", "sessions" or "previews".
        self.dimension = dimension
        self.asked = asked
        self.remaining = remaining
        #: The whole limit, if it is known.
        self.limit = limit
        #: The time until the same call can succeed; None if waiting alone never helps.
        self.retry_after = retry_after
        self.resets_at = resets_at
        #: The holders of the slots, if a container was refused.
        self.holders = holders
        #: The part of a month's limit that running calls have reserved, if the call fits without it. None if the limit
        #: is used up.
        self.held = held
        #: The time that the call has waited for its turn; None if it did not wait.
        self.waited = waited

    @property
    def http_status(self) -> int:
        """429 if waiting for seconds or minutes helps (requests, containers, running calls), else 403.

        Clients repeat a call after a 429 by themselves, but repeating does not bring back a month's budget.
        """
        return _TOO_MANY if self.dimension in _FREED_SOON or self.held is not None else 403

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer: RateLimit-Policy, RateLimit, and with a 429 Retry-After.

        RateLimit and its policy follow draft-ietf-httpapi-ratelimit-headers-11. For cost, `r` and `q` are whole cents.
        Retry-After is missing when the same call can never succeed.
        """
        fields: dict[str, str] = {}
        seconds = None if self.retry_after is None else _seconds(self.retry_after)
        if self.http_status == _TOO_MANY and seconds is not None:
            fields["Retry-After"] = str(seconds)
        name, unit = f'"{self.dimension}"', 100 if self.dimension == "cost" else 1
        if self.limit is not None:
            policy = f"{name};q={_integer(self.limit * unit)}{_POLICIES.get(self.dimension, '')}"
            fields["RateLimit-Policy"] = policy
        # The draft says that Retry-After must not be earlier than the end of this window.
        window = "" if seconds is None else f";t={seconds}"
        fields["RateLimit"] = f"{name};r={_integer(self.remaining * unit)}{window}"
        return fields


class SlotLost(AtlasError):
    """A container has lost its slot, so another container may run in its place. Stop the container."""

    http_status = 409

    def __init__(self, message: str, *, epoch: int | None) -> None:
        super().__init__(message)
        #: The slot's fencing number. From now on, refuse every action that carries this number.
        self.epoch = epoch


def _integer(value: int | Decimal) -> int:
    return max(0, min(math.floor(value), _INTEGER_MAX))


def _seconds(wait: timedelta) -> int:
    """Return whole seconds, rounded up: a client that comes back a moment early is refused again."""
    return max(1, math.ceil(wait.total_seconds()))


def _spoken(wait: timedelta) -> str:
    """Return a waiting time in words, rounded up: a client that comes back a moment early is refused again."""
    seconds = _seconds(wait)
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{math.ceil(seconds / unit)} {name}"
    return f"{seconds} s"


def _sentence(
    dimension: str,
    asked: int | Decimal,
    remaining: int | Decimal,
    limit: int | Decimal | None,
    retry_after: timedelta | None,
    resets_at: datetime | None,
    held: int | Decimal | None,
) -> str:
    unit = {"cost": " dollars", "memory_bytes": " bytes"}.get(dimension, "")
    whole = "" if limit is None else f" of {digits(limit)}{unit}"
    name = dimension.removesuffix("_bytes")
    what = f"the {name} limit{whole} leaves {digits(remaining)}{unit}, and {digits(asked)} were asked for"
    if dimension == "memory_bytes":
        return f"{what}: have the limit raised"
    if dimension in _ENDED:
        return f"{what}: {_ENDED[dimension]}, or have the limit raised"
    if retry_after is None or resets_at is None:
        return f"{what}: more than it can ever allow; ask for less, or have the limit raised"
    when = f"in {_spoken(retry_after)} ({resets_at:%Y-%m-%d %H:%M:%S %Z})"
    less = ", or ask for less" if remaining > 0 else ""
    if held is not None:
        return f"{what}, because running calls hold {digits(held)}{unit}; try again when one has ended, or {when}{less}"
    return f"{what}; try again {when}{less}"
