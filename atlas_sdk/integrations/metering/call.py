"""Compute the amounts to reserve before a call of a model, and to charge after the call. No I/O."""

import logging
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from attrs import define, evolve, field

from atlas_sdk import InvalidInput, QuotaExceeded
from atlas_sdk.guards import AsyncGuard, Guard, GuardOptions
from atlas_sdk.integrations.metering.attempts import Attempts
from atlas_sdk.integrations.metering.endpoint import Endpoint, Plan, Tally
from atlas_sdk.integrations.metering.options import Meter, whole
from atlas_sdk.integrations.metering.outcomes import CallOutcome
from atlas_sdk.integrations.prices import CallFacts, Prices, ledger_cost
from atlas_sdk.integrations.usage import ReportedUsage, TokenUsage
from atlas_sdk.integrations.usage_fields import STANDARD_REGIONS, STANDARD_TIERS

__all__ = ["MeteredCall"]

logger = logging.getLogger(__name__)

#: The default lifetime of a reservation.
_TTL = timedelta(minutes=10)
#: Tokens to add to a provider's count, because providers call it an estimate.
_COUNT_MARGIN = 256
_NOTHING = TokenUsage()


class _Bill(NamedTuple):
    """The charge of a reported usage. `cost` is None if no model has a price."""

    cost: Decimal | None
    unpriced: list[str]


@define
class MeteredCall:
    """One metered call. Use `reservation_options`, then `granted`, then one of `answered`, `ended` and `failed`."""

    meter: Meter
    endpoint: Endpoint
    body: dict[str, Any]
    #: The provider's count of the input tokens, if it was asked.
    counted: int | None = None
    plan: Plan = field(init=False)
    #: The upper bound of the input tokens.
    sent: int = field(init=False)
    #: The granted output limit of one answer.
    output: int = field(init=False)
    #: The reserved amounts for one attempt.
    tokens: int = field(init=False, default=0)
    cost: Decimal = field(init=False, default=Decimal())
    #: Earlier attempts that are charged their reservation.
    lost: int = field(init=False, default=0)
    #: Earlier attempts that the provider may have billed.
    unknown: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.plan = self.endpoint.plan(self.body, default_output=self.meter.max_output_tokens)
        self.output = self.plan.output
        if self.counted is not None:
            self.sent = self.counted + _COUNT_MARGIN
            return
        if self.endpoint.needs_bound and self.meter.bounds_by_bytes:
            raise InvalidInput(
                "the bytes of a file do not bound its tokens: give guarded() a bound of your own, as input_tokens=",
                field="input_tokens",
            )
        self.sent = whole("input_tokens", self.meter.input_tokens(self.body))

    @property
    def _asked(self) -> CallFacts:
        plan = self.plan
        return CallFacts(
            provider=self.endpoint.provider,
            tier=plan.tier,
            region=plan.region,
            raw={},
            request=self.body,
            uses=plan.uses,
            searches=plan.searches,
        )

    @property
    def reservation_options(self) -> GuardOptions:
        """The options of the guard, with the amounts to reserve. Raises InvalidInput for a refused unknown price."""
        meter, plan = self.meter, self.plan
        meta: dict[str, object] = {"provider": self.endpoint.provider, "model": plan.model}
        cost: Decimal | None = Decimal()
        if meter.prices is not None:
            cost = meter.prices.estimate(
                plan.model, input_tokens=self.sent, output_tokens=plan.output * plan.answers, **self._asked
            )
            if cost is None and meter.unknown_price == "refuse":
                raise InvalidInput(f"the model {plan.model!r} has no price, so its cost is unknown", field="model")
            if cost is None:
                meta["price_unknown"] = True
            else:
                self._check_parts()
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

    def _check_parts(self) -> None:
        """Raise InvalidInput for audio output without a price, and for other parts if the option says so."""
        prices = self.meter.prices
        if prices is None:
            return
        used = {name: 1 for name in self.plan.uses if name != "cache_write_long"}
        usage = TokenUsage(**used, web_searches=min(self.plan.searches, 1))
        missing = list(prices.unpriced(self.plan.model, usage, **self._asked))
        price = prices.of(self.plan.model, provider=self.endpoint.provider)
        if self.plan.timed and price is not None and price.audio_minute is not None and "input_audio" in missing:
            missing.remove("input_audio")
        if missing and (self.meter.unknown_price == "refuse" or "output_audio" in missing):
            raise InvalidInput(
                f"the price of {self.plan.model!r} has no {', '.join(missing)}, so the cost of this request is "
                "unknown: add it to Price",
                field="prices",
            )

    def explained(self, refusal: QuotaExceeded) -> QuotaExceeded:
        """Return a refusal whose sentence says that its amount is an estimate."""
        if refusal.dimension in {"tokens", "cost"} and self.counted is None:
            source = "the request's bytes, an upper bound" if self.meter.bounds_by_bytes else "input_tokens="
            better = 'give guarded() a closer count as input_tokens=, or input_tokens="provider"'
            sentence = f"{refusal}. This includes an estimate of the input, {self.sent} tokens from {source}: {better}"
            refusal.args = (sentence, *refusal.args[1:])
        return refusal

    def granted(self, guard: Guard | AsyncGuard) -> dict[str, Any]:
        """Return the request to send, limited to the granted amount."""
        self.tokens, self.cost = guard.tokens, guard.cost
        self.output = min(self.plan.output, (guard.tokens - self.sent) // self.plan.answers)
        return self.endpoint.limited(self.body, self.output)

    def reserve_again(self, guard: Guard | AsyncGuard) -> Any:
        """Reserve the amount of another attempt; on asyncio await the result. Raises QuotaExceeded."""
        return guard.extend(tokens=self.tokens, cost=self.cost, ttl=self.meter.guard_options.get("ttl", _TTL))

    def answered(self, guard: Guard | AsyncGuard, answer: object) -> None:
        """Charge a complete answer. Without usage and without output, the outcome is unknown: see `on_unknown`."""
        tally = Tally()
        self.endpoint.answer(tally, answer)
        if tally.usage is not None or tally.seen:
            self._settle(guard, tally)
        elif self.lost and self.meter.guard_options.get("on_unknown") == "release":
            # The guard would release the earlier attempts too, which have a policy of their own.
            meta: dict[str, object] = {"unknown_attempts": self.unknown}
            guard.settle(tokens=self._lost_tokens, cost=self.lost * self.cost, meta=meta)

    def progress(self, guard: Guard | AsyncGuard, tally: Tally) -> None:
        """Report the progress of a stream."""
        told = 0 if tally.usage is None else tally.usage.total.total
        guard.progress(tokens=told + sum(self._missing(tally)) + self._lost_tokens)

    def ended(self, guard: Guard | AsyncGuard, tally: Tally, *, cut: bool) -> None:
        """Charge a stream that has ended: the reported usage, or else the output so far."""
        if cut and self.meter.charges[CallOutcome.CUT] == "free":
            guard.settle(tokens=self._lost_tokens, cost=self.lost * self.cost, meta={"cut": True})
        elif cut:
            self._settle(guard, tally, cut=True)
        else:
            self._settle(guard, tally)

    def _missing(self, tally: Tally) -> tuple[int, int]:
        """Return the input and output tokens to add to the reported usage, because it is not final or not credible."""
        total = _NOTHING if tally.usage is None else tally.usage.total
        final = tally.final and tally.usage is not None
        # Some gateways report zeros beside a text. A model that is billed by time reports no tokens.
        if final and (total.audio_seconds or not (tally.seen or total.made)):
            return 0, 0
        sent = 0 if total.sent else self.sent
        if final and total.made:
            return sent, 0
        most = self.output * self.plan.answers
        # Only the limit bounds hidden output, and output that was produced while the connection broke.
        unfinished = not tally.final and self.meter.charges[CallOutcome.CUT] == "reservation"
        made = most if tally.hides or self.plan.hides or unfinished else min(tally.seen, most)
        return sent, max(0, made - total.made)

    def failed(self, guard: Guard | AsyncGuard, error: BaseException, attempts: Attempts) -> None:
        """Charge or release a call without an answer, by the outcome of each of its attempts."""
        charged = attempts.failed(error)
        if not charged:
            guard.release()
            return
        meta: dict[str, object] = {"outcome": charged[-1].value}
        if len(charged) > 1:
            meta["unknown_attempts"] = len(charged)
        guard.settle(tokens=len(charged) * self.tokens, cost=len(charged) * self.cost, meta=meta)

    @property
    def _lost_tokens(self) -> int:
        return self.lost * self.tokens

    def _settle(self, guard: Guard | AsyncGuard, tally: Tally, **marks: object) -> None:
        usage = self._used(tally)
        meta: dict[str, object] = {**_numbers(usage.total), **marks}
        if usage is not tally.usage or not tally.final:
            meta["estimated"] = True
        meta.update({name: value for name, value in (("tier", usage.tier), ("region", usage.region)) if value})
        if usage.unknown:
            meta["unknown_usage"] = list(usage.unknown)
            for name in usage.unknown:
                _warn_once("%s reports the unknown usage field %r", self.endpoint.provider, name)
        if tally.model is not None and tally.model != self.plan.model:
            meta["answered_by"] = tally.model
        if self.unknown:
            meta["unknown_attempts"] = self.unknown
        cost = self._cost(usage, tally, meta) + self.lost * self.cost
        guard.settle(tokens=usage.total.total + self._lost_tokens, cost=ledger_cost(cost), meta=meta)

    def _used(self, tally: Tally) -> ReportedUsage:
        """Return the reported usage, with the tokens that it lacks."""
        usage = tally.usage
        if usage is None:
            # The provider has not told its tier and region, so the requested ones count.
            tier = None if self.plan.tier in STANDARD_TIERS else self.plan.tier
            region = None if self.plan.region in STANDARD_REGIONS else self.plan.region
            usage = ReportedUsage(lines=((None, _NOTHING),), tier=tier, region=region)
        sent, made = self._missing(tally)
        searches = 0 if usage.total.web_searches else max(tally.searches, self.plan.unreported_searches)
        if not (sent or made or searches):
            return usage
        (model, main), *others = usage.lines
        part = self.plan.output_part
        more = {"input": main.input + sent, "web_searches": main.web_searches + searches}
        main = evolve(main, **{**more, part: getattr(main, part) + made})
        return evolve(usage, lines=((model, main), *others))

    def _cost(self, usage: ReportedUsage, tally: Tally, meta: dict[str, object]) -> Decimal:
        """Return the cost of a usage, 0 without prices. Mark what has no price."""
        prices = self.meter.prices
        if prices is None:
            return Decimal()
        bill = self._bill(prices, usage, tally.model)
        if unpriced := sorted({*bill.unpriced, *tally.unpriced}):
            meta["unpriced"] = unpriced
            for name in unpriced:
                _warn_once("the price of %r has no %s", self.plan.model, name)
        if bill.cost is None or prices.of(self.plan.model, provider=self.endpoint.provider) is None:
            # The reservation has this mark already; correct the mark if the answer's model has a price.
            meta["price_unknown"] = bill.cost is None
        return bill.cost or Decimal()

    def _bill(self, prices: Prices, usage: ReportedUsage, answered_by: str | None) -> _Bill:
        """Price a usage, each line at the price of its model."""
        cost: Decimal | None = None
        unpriced: list[str] = []
        facts = CallFacts(
            provider=self.endpoint.provider, tier=usage.tier, region=usage.region, raw=usage.raw, request=self.body
        )
        for model, parts in usage.lines:
            # A deployment may have any name; then the answer names the model.
            names = [name for name in (model, self.plan.model, answered_by) if name is not None]
            costs = ((name, prices.cost(name, parts, **facts)) for name in names)
            priced = next(((name, line) for name, line in costs if line is not None), None)
            if priced is None:
                continue
            name, line = priced
            cost = line if cost is None else cost + line
            unpriced += prices.unpriced(name, parts, **facts)
            if model not in {None, name}:
                unpriced.append(f"model={model}")
        return _Bill(cost, unpriced)


def _numbers(usage: TokenUsage) -> dict[str, object]:
    """Return the parts of a usage for the ledger: the usual four always, the others if they are not 0."""
    usual = {"input", "output", "cache_read", "cache_write"}
    names = [name for name in TokenUsage.__annotations__ if name in usual or getattr(usage, name)]
    return {name: getattr(usage, name) for name in names}


@lru_cache(maxsize=1024)
def _warn_once(message: str, *names: str) -> None:
    """Log a warning, once for each message and names."""
    logger.warning(f"{message}: its cost is an estimate, marked in the ledger", *names)  # noqa: G004  # a constant end
