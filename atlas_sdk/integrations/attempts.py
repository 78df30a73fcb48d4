"""Record the HTTP attempts of one call, because client libraries repeat requests by themselves.

An attempt is free if the provider refused it with a 4xx, or if it was never sent. Any other failed attempt may have
been billed. Before the next attempt, the caller reserves the amount of one attempt again, so that the possible cost of
the call is always reserved. If this reservation is refused, the next attempt is not sent.

The caller gets the answer or error of the last attempt. This module sees the earlier attempts through two hooks of both
client libraries, which the same code generator made: `_prepare_request` gets every request, `_should_retry` every
answer after which the request may be repeated. An attempt that the hooks do not see counts as unknown, never as free.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from attrs import define, field

__all__ = ["Attempts", "observe", "watching"]

#: Request Timeout: the provider may have worked on the request until then.
_TIMEOUT = 408


@define
class _Attempt:
    #: True if the connection failed.
    failed: bool = False
    #: True if a byte of the request may have been sent.
    sent: bool = False
    status: int | None = None

    def note(self, event: str) -> None:
        """Note an event of the transport (httpcore's trace extension)."""
        if event.startswith("connection.") and event.endswith(".failed"):
            self.failed = True
        elif event.endswith(".send_request_headers.started"):
            self.sent = True

    @property
    def free(self) -> bool:
        if self.status is not None:
            return 400 <= self.status < 500 and self.status != _TIMEOUT  # noqa: PLR2004  # the 4xx
        return self.failed and not self.sent


@define
class Attempts:
    """The attempts of one call. `reserve` reserves the amount of one more attempt; on asyncio, await it."""

    reserve: Callable[[], Any]
    _made: list[_Attempt] = field(factory=list)
    #: The number of attempts that the reservation covers.
    _reserved: int = 1

    @property
    def needs_more(self) -> bool:
        """True if the next attempt needs another reservation first."""
        return self.unknown + 1 > self._reserved

    def reserved(self) -> None:
        """Note that the amount of another attempt was reserved."""
        self._reserved += 1

    def begin(self, request: Any, *, awaited: bool) -> None:
        attempt = _Attempt()
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

    @property
    def unknown(self) -> int:
        """The number of attempts that the provider may have billed."""
        return sum(not attempt.free for attempt in self._made)

    @property
    def lost(self) -> int:
        """The number of attempts before the last one that the provider may have billed."""
        return sum(not attempt.free for attempt in self._made[:-1])


_current: ContextVar[Attempts | None] = ContextVar("attempts", default=None)


@contextmanager
def watching(reserve: Callable[[], Any]) -> Iterator[Attempts]:
    """Record the attempts of the call that this thread or task makes in the `with` block."""
    attempts = Attempts(reserve)
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
                attempts.reserve()
                attempts.reserved()
            attempts.begin(request, awaited=awaited)

    async def aprepared(request: Any) -> None:
        await prepare(request)
        if (attempts := _current.get()) is not None:
            if attempts.needs_more:
                await attempts.reserve()
                attempts.reserved()
            attempts.begin(request, awaited=awaited)

    def decided(response: Any) -> Any:
        if (attempts := _current.get()) is not None:
            attempts.answered(response.status_code)
        return decide(response)

    vars(client).update(_prepare_request=aprepared if awaited else prepared, _should_retry=decided)
