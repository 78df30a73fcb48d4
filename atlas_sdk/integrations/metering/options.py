"""The options of `guarded`."""

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Literal

from attrs import frozen

from atlas_sdk import InvalidInput, User
from atlas_sdk.guards import GuardOptions
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.metering.outcomes import POLICIES, CallOutcome, OutcomeOptions
from atlas_sdk.integrations.prices import Prices

__all__ = ["Meter", "Metering", "positive", "read_options", "whole"]


class Metering(OutcomeOptions, total=False):
    """The options of `guarded`."""

    #: Prices of models. Without them only tokens are counted.
    prices: Prices | None
    #: For a model, or a tier or part that the request names, without a price: "tokens" counts its tokens only, marked
    #: `price_unknown` or `unpriced` in the ledger (the default); "refuse" refuses the request.
    unknown_price: Literal["tokens", "refuse"]
    #: A function of the request's JSON that returns an upper bound of its input tokens; default `bounds.input_bound`.
    #: "provider" asks the provider's own counter before each call, where it has one.
    input_tokens: Callable[[Mapping[str, object]], int] | Literal["provider"]
    #: The output limit for requests that have none (OpenAI's may have none); default 4,096.
    max_output_tokens: int
    #: The fewest output tokens to accept near the limit; default: all or nothing.
    min_output_tokens: int | None
    #: False to send `stream_options` to OpenAI only if the request has them. A chat stream without them reports no
    #: usage, and its output is charged by its bytes. Default True, but False for a `compatible` server.
    stream_options: bool
    #: True for a server that speaks OpenAI's protocol without its newer fields: the client adds `max_tokens` instead of
    #: `max_completion_tokens`, and no `stream_options`. Default False.
    compatible: bool
    #: Paths, as in the provider's reference, to which POST requests pass unmetered.
    unmetered: Collection[str]
    #: The guard's options, as in `GuardOptions`. `on_unknown` is about answers without usage and without output, and is
    #: the default of `on_no_answer`.
    requests: int
    ttl: timedelta
    holder: str
    meta: Mapping[str, object] | None
    lease: bool
    on_unknown: Literal["charge", "release"]


_GUARD_OPTIONS = ("requests", "ttl", "holder", "lease", "on_unknown")


@frozen(kw_only=True)
class Meter:
    """The checked options of `guarded`."""

    quotas: Any
    user: User | Callable[[], User]
    prices: Prices | None
    unknown_price: Literal["tokens", "refuse"]
    input_tokens: Callable[[Mapping[str, object]], int]
    #: True to ask the provider's counter for the input tokens.
    asks_provider: bool
    max_output_tokens: int
    min_output_tokens: int | None
    stream_options: bool
    compatible: bool
    #: The charge of each outcome.
    charges: Mapping[CallOutcome, str]
    unmetered: tuple[str, ...]
    meta: Mapping[str, object]
    guard_options: GuardOptions

    @property
    def payer(self) -> User:
        """The user who pays for the next call."""
        return self.user if isinstance(self.user, User) else self.user()

    @property
    def bounds_by_bytes(self) -> bool:
        """True if the caller gave no bound of the input."""
        return self.input_tokens is input_bound


def whole(name: str, value: object, *, least: int = 0) -> int:
    """Return a whole number from `least` up. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{name} must be a whole number from {least} up, not {value!r}", field=name)
    return value


def positive(name: str, value: object) -> int:
    """Return a whole number from 1 up. Raises InvalidInput."""
    return whole(name, value, least=1)


def _choice(name: str, value: object, *choices: object) -> Any:
    if value not in choices:
        raise InvalidInput(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}", field=name)
    return value


def _charges(options: Metering) -> dict[CallOutcome, str]:
    given: Mapping[str, Any] = options
    defaults = {outcome: policy["default"] for outcome, policy in POLICIES.items()}
    if options.get("on_unknown") == "release":
        defaults[CallOutcome.NO_ANSWER] = "free"
    return {
        outcome: _choice(
            policy["option"], given.get(policy["option"], defaults[outcome]), policy["default"], *policy["others"]
        )
        for outcome, policy in POLICIES.items()
    }


def read_options(quotas: Any, user: User | Callable[[], User], options: Metering) -> Meter:
    """Check the options of `guarded`. Raises TypeError, InvalidInput."""
    if unknown := options.keys() - Metering.__annotations__.keys():
        message = f"guarded() takes no {', '.join(sorted(unknown))}"
        raise TypeError(message)
    least = options.get("min_output_tokens")
    counter: Any = options.get("input_tokens", input_bound)
    if counter != "provider" and not callable(counter):
        message = f'input_tokens must be a function of the request, or "provider", not {counter!r}'
        raise InvalidInput(message, field="input_tokens")
    guard_options: Any = {name: value for name, value in options.items() if name in _GUARD_OPTIONS}
    compatible = _choice("compatible", options.get("compatible", False), True, False)
    return Meter(
        quotas=quotas,
        user=user,
        prices=options.get("prices"),
        unknown_price=_choice("unknown_price", options.get("unknown_price", "tokens"), "tokens", "refuse"),
        input_tokens=counter if callable(counter) else input_bound,
        asks_provider=counter == "provider",
        max_output_tokens=positive("max_output_tokens", options.get("max_output_tokens", 4096)),
        min_output_tokens=None if least is None else positive("min_output_tokens", least),
        stream_options=_choice("stream_options", options.get("stream_options", not compatible), True, False),
        compatible=compatible,
        charges=_charges(options),
        unmetered=tuple(options.get("unmetered", ())),
        meta=dict(options.get("meta") or {}),
        guard_options=guard_options,
    )
