"""Compute the amounts to reserve before a call of a model, and to charge after the call. No I/O.

The wrappers of both providers use this module. An `Api` describes the differences between the providers' APIs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, Protocol, TypedDict

from attrs import define, evolve, field, frozen

from atlas_sdk import InvalidInput, User
from atlas_sdk.guards import AsyncGuard, Guard, GuardOptions
from atlas_sdk.integrations.attempts import Attempts
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.prices import Prices
from atlas_sdk.integrations.usage import TokenUsage

__all__ = ["Api", "Meter", "MeteredCall", "Metering", "Plan", "Tally", "plain", "positive", "read_options"]


class Metering(TypedDict, total=False):
    """The options of `guarded`."""

    #: Prices of models. Without them only tokens are counted.
    prices: Prices | None
    #: For a model without a price: "tokens" counts its tokens only, marked `price_unknown` in the ledger (the default);
    #: "refuse" refuses it.
    unknown_price: Literal["tokens", "refuse"]
    #: A function of the request's JSON that returns an upper bound of its input tokens; default `bounds.input_bound`.
    input_tokens: Callable[[Mapping[str, object]], int]
    #: The output limit for requests that have none (OpenAI's may have none); default 4,096.
    max_output_tokens: int
    #: The fewest output tokens to accept near the limit; default: all or nothing.
    min_output_tokens: int | None
    #: The charge of a stream that ends before the provider reports its usage: the "progress" so far (the default), or
    #: the whole "reservation".
    on_cut: Literal["progress", "reservation"]
    #: Paths, as in the provider's reference, to which POST requests pass unmetered.
    unmetered: Collection[str]
    #: The guard's options, as in `GuardOptions`.
    requests: int
    ttl: timedelta
    holder: str
    meta: Mapping[str, object] | None
    lease: bool
    on_unknown: Literal["charge", "release"]


#: The default lifetime of a reservation.
_TTL = timedelta(minutes=10)
_GUARD_OPTIONS = ("requests", "ttl", "holder", "lease", "on_unknown")


@frozen(kw_only=True)
class Plan:
    """The upper bound of a request's usage."""

    model: str
    #: Output tokens of one answer.
    output: int
    #: The number of answers requested.
    answers: int = 1
    #: The fewest output tokens that the provider accepts.
    least: int = 1
    #: True if streams hide a part of the output, such as reasoning, so that the visible bytes do not bound it.
    hides: bool = False


@define
class Tally:
    """The usage that a stream has shown so far."""

    #: The latest usage that the provider has reported.
    usage: TokenUsage | None = None
    #: True if `usage` is final.
    final: bool = False
    #: UTF-8 bytes of the output so far. The output has at most as many tokens.
    seen: int = 0
    #: Finished answers, for APIs that report the usage after the answers.
    finished: int = 0
    #: True if only the usage is still missing.
    ending: bool = False
    #: True if the stream has hidden output.
    hides: bool = False
    model: str | None = None

    def text(self, *parts: object) -> None:
        """Count the bytes of output texts."""
        self.seen += sum(len(part.encode("utf-8", "replace")) for part in parts if isinstance(part, str))


class Api(Protocol):
    """One endpoint of one provider."""

    @property
    def provider(self) -> str:
        """The provider's name, for the ledger."""
        ...

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Raises InvalidInput for one that cannot be metered."""
        ...

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this limit of output tokens."""
        ...

    def usage(self, answer: object) -> TokenUsage | None:
        """Read the usage of a complete answer, an object or a mapping; None if it reports none."""
        ...

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event of a stream; return False to hide an event that the caller did not request."""
        ...


@frozen(kw_only=True)
class Meter:
    """The checked options of `guarded`."""

    quotas: Any
    user: User | Callable[[], User]
    prices: Prices | None
    unknown_price: Literal["tokens", "refuse"]
    input_tokens: Callable[[Mapping[str, object]], int]
    max_output_tokens: int
    min_output_tokens: int | None
    on_cut: Literal["progress", "reservation"]
    unmetered: tuple[str, ...]
    meta: Mapping[str, object]
    guard_options: GuardOptions

    @property
    def payer(self) -> User:
        """The user who pays for the next call."""
        return self.user if isinstance(self.user, User) else self.user()


def positive(name: str, value: object) -> int:
    """Return a whole number from 1 up. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} must be a whole number from 1 up, not {value!r}", field=name)
    return value


def _choice(name: str, value: object, *choices: str) -> Any:
    if value not in choices:
        raise InvalidInput(f"{name} must be one of {', '.join(choices)}, not {value!r}", field=name)
    return value


def read_options(quotas: Any, user: User | Callable[[], User], options: Metering) -> Meter:
    """Check the options of `guarded`. Raises TypeError, InvalidInput."""
    if unknown := options.keys() - Metering.__annotations__.keys():
        message = f"guarded() takes no {', '.join(sorted(unknown))}"
        raise TypeError(message)
    least = options.get("min_output_tokens")
    guard_options: Any = {name: value for name, value in options.items() if name in _GUARD_OPTIONS}
    return Meter(
        quotas=quotas,
        user=user,
        prices=options.get("prices"),
        unknown_price=_choice("unknown_price", options.get("unknown_price", "tokens"), "tokens", "refuse"),
        input_tokens=options.get("input_tokens", input_bound),
        max_output_tokens=positive("max_output_tokens", options.get("max_output_tokens", 4096)),
        min_output_tokens=None if least is None else positive("min_output_tokens", least),
        on_cut=_choice("on_cut", options.get("on_cut", "progress"), "progress", "reservation"),
        unmetered=tuple(options.get("unmetered", ())),
        meta=dict(options.get("meta") or {}),
        guard_options=guard_options,
    )


@define
class MeteredCall:
    """One metered call. Use `reservation_options`, then `granted`, then one of `answered`, `ended` and `failed`."""

    meter: Meter
    api: Api
    body: dict[str, Any]
    plan: Plan = field(init=False)
    #: The upper bound of the input tokens.
    sent: int = field(init=False)
    #: The granted output limit of one answer.
    output: int = field(init=False)
    #: The reserved amounts for one attempt.
    tokens: int = field(init=False, default=0)
    cost: Decimal = field(init=False, default=Decimal())
    #: Earlier attempts that may have been billed too.
    lost: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.plan = self.api.plan(self.body, default_output=self.meter.max_output_tokens)
        bound: object = self.meter.input_tokens(self.body)
        if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
            raise InvalidInput(f"input_tokens must return a whole number, not {bound!r}", field="input_tokens")
        self.sent = bound
        self.output = self.plan.output

    @property
    def reservation_options(self) -> GuardOptions:
        """The options of the guard, with the amounts to reserve. Raises InvalidInput for a refused unknown price."""
        meter, plan = self.meter, self.plan
        meta: dict[str, object] = {"provider": self.api.provider, "model": plan.model}
        cost: Decimal | None = Decimal()
        if meter.prices is not None:
            cost = meter.prices.estimate(plan.model, input_tokens=self.sent, output_tokens=plan.output * plan.answers)
            if cost is None and meter.unknown_price == "refuse":
                raise InvalidInput(f"the model {plan.model!r} has no price, so its cost is unknown", field="model")
            if cost is None:
                meta["price_unknown"] = True
        asked: GuardOptions = {
            **meter.guard_options,
            "tokens": self.sent + plan.output * plan.answers,
            "cost": cost or Decimal(),
            "meta": {**meta, **meter.meta},
        }
        if meter.min_output_tokens is not None:
            least = min(max(meter.min_output_tokens, plan.least), plan.output)
            asked["min_tokens"] = self.sent + least * plan.answers
        return asked

    def granted(self, guard: Guard | AsyncGuard) -> dict[str, Any]:
        """Return the request to send, limited to the granted amount."""
        self.tokens, self.cost = guard.tokens, guard.cost
        self.output = min(self.plan.output, (guard.tokens - self.sent) // self.plan.answers)
        return self.api.limited(self.body, self.output)

    def reserve_again(self, guard: Guard | AsyncGuard) -> Any:
        """Reserve the amount of another attempt; on asyncio await the result. Raises QuotaExceeded."""
        return guard.extend(tokens=self.tokens, cost=self.cost, ttl=self.meter.guard_options.get("ttl", _TTL))

    def answered(self, guard: Guard | AsyncGuard, answer: object) -> None:
        """Charge a complete answer. Without a reported usage the outcome is unknown."""
        usage = self.api.usage(answer)
        if usage is not None:
            self._settle(guard, usage, _model(answer))

    def progress(self, guard: Guard | AsyncGuard, tally: Tally) -> None:
        """Report the progress of a stream."""
        guard.progress(tokens=self._so_far(tally).total + self._lost_tokens)

    def ended(self, guard: Guard | AsyncGuard, tally: Tally, *, cut: bool) -> None:
        """Charge a stream that has ended: the reported usage, or else the output so far."""
        marks: dict[str, object] = {}
        if not tally.final:
            marks["estimated"] = True
        if cut:
            marks["cut"] = True
        self._settle(guard, self._so_far(tally), tally.model, **marks)

    def _so_far(self, tally: Tally) -> TokenUsage:
        if tally.final and tally.usage is not None:
            return tally.usage
        known = tally.usage or TokenUsage(input=self.sent)
        most = self.output * self.plan.answers
        # Only the limit bounds hidden output, and output that was produced while the connection broke.
        hidden = tally.hides or self.plan.hides or self.meter.on_cut == "reservation"
        return evolve(known, output=max(known.output, most if hidden else min(tally.seen, most)))

    def failed(self, guard: Guard | AsyncGuard, error: BaseException, attempts: Attempts) -> None:
        """Release the guard if no attempt can have been billed; else `on_unknown` decides."""
        if isinstance(status := getattr(error, "status_code", None), int):
            attempts.answered(status)
        unknown = attempts.unknown
        if not unknown:
            guard.release()
        elif self._charges_unknown:
            marks = {"unknown_attempts": unknown} if unknown > 1 else None
            guard.settle(tokens=unknown * self.tokens, cost=unknown * self.cost, meta=marks)

    @property
    def _charges_unknown(self) -> bool:
        return self.meter.guard_options.get("on_unknown", "charge") == "charge"

    @property
    def _lost_tokens(self) -> int:
        return self.lost * self.tokens if self._charges_unknown else 0

    def _settle(self, guard: Guard | AsyncGuard, usage: TokenUsage, model: str | None, **marks: object) -> None:
        meta: dict[str, object] = {
            "input": usage.input,
            "output": usage.output,
            "cache_read": usage.cache_read,
            "cache_write": usage.cache_write,
            **marks,
        }
        cost: Decimal | None = Decimal()
        if self.meter.prices is not None:
            cost = self.meter.prices.cost(self.plan.model, usage)
            if cost is None and model is not None:
                # A deployment may have any name; the answer names the model.
                cost = self.meter.prices.cost(model, usage)
            if cost is None or self.meter.prices.of(self.plan.model) is None:
                # The reservation has this mark already; correct the mark if the answer's model has a price.
                meta["price_unknown"] = cost is None
        if model is not None and model != self.plan.model:
            meta["answered_by"] = model
        cost = cost or Decimal()
        if self.lost:
            meta["unknown_attempts"] = self.lost
            cost += self.lost * self.cost if self._charges_unknown else 0
        guard.settle(tokens=usage.total + self._lost_tokens, cost=cost, meta=meta)


def _model(answer: object) -> str | None:
    model = answer.get("model") if isinstance(answer, Mapping) else getattr(answer, "model", None)
    return model if isinstance(model, str) else None


def plain(value: Any, absent: tuple[type, ...]) -> Any:
    """Return a value of a request in a form that can be read twice, without the fields that the caller omitted."""
    if isinstance(value, Mapping):
        return {key: plain(part, absent) for key, part in value.items() if not isinstance(part, absent)}
    if isinstance(value, str | bytes) or hasattr(value, "model_dump") or hasattr(value, "read"):
        return value
    if isinstance(value, Iterable):
        return [plain(part, absent) for part in value]
    return value
