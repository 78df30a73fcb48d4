"""Record the HTTP attempts of one call, because client libraries repeat requests by themselves.

Every attempt has an outcome of its own. Before the next attempt, the caller reserves the amount of one attempt again if
an earlier one is charged, so that the possible cost of the call is always reserved. If this reservation is refused, the
next attempt is not sent.

The caller gets the answer or error of the last attempt. This module sees the earlier attempts through two hooks of both
client libraries, which the same code generator made: `_prepare_request` gets every request, `_should_retry` every
answer after which the request may be repeated. The HTTP library's trace tells whether a request was sent. An attempt
without a trace, because the client has another transport, counts as sent.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from attrs import define, field

from atlas_sdk import AtlasError
from atlas_sdk.integrations.metering.outcomes import CallOutcome

__all__ = ["Attempts", "observe", "watching"]

#: Request Timeout: the provider may have worked on the request until then.
_TIMEOUT = 408
#: Errors of the HTTP libraries (httpx and its successor httpx2) that come before the first byte is sent.
_UNSENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"})


@define
class _Attempt:
    #: The HTTP request of this attempt.
    request: Any
    #: True if the transport has told anything about this attempt.
    traced: bool = False
    #: True if a byte of the request may have been sent.
    sent: bool = False
    status: int | None = None
    #: The error that ended the attempt, if it is known.
    error: BaseException | None = None

    def note(self, event: str) -> None:
        """Note an event of the transport (httpcore's trace extension)."""
        self.traced = True
        if event.endswith(".send_request_headers.started"):
            self.sent = True

    def answered_by(self, response: Any) -> bool:
        """Return whether a response answers this attempt, possibly after redirects."""
        steps = [response, *getattr(response, "history", ())]
        return any(getattr(step, "request", None) is self.request for step in steps)

    @property
    def outcome(self) -> CallOutcome:
        if self.status is not None:
            if 400 <= self.status < 500 and self.status != _TIMEOUT:  # noqa: PLR2004  # the 4xx
                return CallOutcome.REFUSED
            return CallOutcome.FAILED if self.status >= 500 else CallOutcome.NO_ANSWER  # noqa: PLR2004  # the 5xx
        causes = [error for error in (self.error, getattr(self.error, "__cause__", None)) if error is not None]
        unsent = self.traced or any(type(cause).__name__ in _UNSENT for cause in causes)
        if not self.sent and any(isinstance(cause, AtlasError) for cause in causes):
            return CallOutcome.OWN_REFUSAL
        return CallOutcome.NEVER_SENT if unsent and not self.sent else CallOutcome.NO_ANSWER


@define
class Attempts:
    """The attempts of one call. `reserve` reserves the amount of one more attempt; on asyncio, await it."""

    reserve: Callable[[], Any]
    #: The charge of each outcome.
    charges: Mapping[CallOutcome, str]
    _made: list[_Attempt] = field(factory=list)
    #: The number of attempts that the reservation covers.
    _reserved: int = 1
    #: True while the next attempt waits for its reservation, and after this was refused.
    stopped: bool = False

    @property
    def needs_more(self) -> bool:
        """True if the next attempt needs another reservation first."""
        return len(self._charged(self._made)) + 1 > self._reserved

    def reserved(self) -> None:
        """Note that the amount of another attempt was reserved."""
        self._reserved += 1
        self.stopped = False

    def begin(self, request: Any, *, awaited: bool) -> None:
        attempt = _Attempt(request)
        self._made.append(attempt)

        def trace(event: str, info: object) -> None:  # noqa: ARG001  # httpcore's signature
            attempt.note(event)

        async def atrace(event: str, info: object) -> None:  # noqa: ARG001  # as above
            attempt.note(event)

        request.extensions = {**request.extensions, "trace": atrace if awaited else trace}

    def answered(self, status: int) -> None:
        """Note the status of the newest attempt."""
        if self._made:
            self._made[-1].status = status

    def failed(self, error: BaseException) -> list[CallOutcome]:
        """Note the error of the call; return the outcomes that are charged. An error before a request has one too."""
        status = getattr(error, "status_code", None)
        if self._made and not self.stopped:
            newest = self._made[-1]
            # The error may come from another request, such as that of a token provider before the next attempt.
            if not isinstance(status, int):
                newest.error = error
            elif newest.answered_by(getattr(error, "response", None)):
                newest.status, newest.error = status, error
            return self._charged(self._made)
        last = CallOutcome.OWN_REFUSAL if isinstance(error, AtlasError) else CallOutcome.NEVER_SENT
        return [*self._charged(self._made), *([last] if self.charges[last] == "reservation" else [])]

    @property
    def lost(self) -> int:
        """The number of attempts before the last one that are charged."""
        return len(self._charged(self._made[:-1]))

    @property
    def unknown(self) -> int:
        """The number of attempts before the last one that the provider may have billed."""
        unsure = [attempt for attempt in self._made[:-1] if attempt.outcome is CallOutcome.NO_ANSWER]
        return max(len(unsure), self.lost)

    def _charged(self, made: list[_Attempt]) -> list[CallOutcome]:
        return [attempt.outcome for attempt in made if self.charges[attempt.outcome] == "reservation"]


_current: ContextVar[Attempts | None] = ContextVar("attempts", default=None)


@contextmanager
def watching(reserve: Callable[[], Any], charges: Mapping[CallOutcome, str]) -> Iterator[Attempts]:
    """Record the attempts of the call that this thread or task makes in the `with` block."""
    attempts = Attempts(reserve, charges)
    token = _current.set(attempts)
    try:
        yield attempts
    finally:
        _current.reset(token)


def observe(client: Any, *, awaited: bool) -> None:
    """Add the hooks to a client, which must be our own copy. Raises TypeError when the library has no such hooks."""
    prepare, decide = getattr(client, "_prepare_request", None), getattr(client, "_should_retry", None)
    if prepare is None or decide is None:
        message = f"this version of {type(client).__module__} is not supported: its attempts cannot be watched"
        raise TypeError(message)

    def prepared(request: Any) -> None:
        prepare(request)
        if (attempts := _current.get()) is not None:
            if attempts.needs_more:
                attempts.stopped = True
                attempts.reserve()
                attempts.reserved()
            attempts.begin(request, awaited=awaited)

    async def aprepared(request: Any) -> None:
        await prepare(request)
        if (attempts := _current.get()) is not None:
            if attempts.needs_more:
                attempts.stopped = True
                await attempts.reserve()
                attempts.reserved()
            attempts.begin(request, awaited=awaited)

    def decided(response: Any) -> Any:
        if (attempts := _current.get()) is not None:
            attempts.answered(response.status_code)
        return decide(response)

    vars(client).update(_prepare_request=aprepared if awaited else prepared, _should_retry=decided)
