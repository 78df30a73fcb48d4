"""Wrap a copy of the caller's client, so that every request goes through a meter.

Both libraries send everything through their client's `request`: resources, `with_raw_response`, helpers, `client.post`.
So this module intercepts that one method. It refuses by default: a POST must be metered by an `Api` or listed as free.
"""

import inspect
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from atlas_sdk import InvalidInput, User
from atlas_sdk.integrations.attempts import observe, watching
from atlas_sdk.integrations.metering import Api, Meter, MeteredCall, Metering, plain, read_options
from atlas_sdk.integrations.streams import AsyncWatch, Watch, within

__all__ = ["Library", "guard_client"]

C = TypeVar("C")

#: Methods that use no model.
_FREE_METHODS = frozenset({"get", "head", "delete", "options"})
#: The header by which the libraries request the HTTP response: "true", "raw" or "stream".
_RAW = "x-stainless-raw-response"


class Library(Protocol):
    """The description of a client library."""

    @property
    def absent(self) -> tuple[type, ...]:
        """The types that stand for omitted arguments."""
        ...

    @property
    def streams(self) -> tuple[type, type]:
        """The library's stream classes, blocking and asyncio."""
        ...

    @property
    def watched(self) -> tuple[type, type]:
        """Our stream classes that replace the library's; they have an attribute `watch`."""
        ...

    def api(self, path: str) -> Api | None:
        """Return the `Api` of a POST to this path; None if it is free. Raises InvalidInput for other paths."""
        ...

    def prepare(self, client: Any) -> None:
        """Disable every part of a client whose requests do not go through `request`."""
        ...


def guard_client(
    client: C, library: Library, quotas: Any, user: User | Callable[[], User], options: Metering, *, awaited: bool
) -> C:
    """Return a metered copy of a client, which shares its connections. Raises TypeError, InvalidInput."""
    if inspect.iscoroutinefunction(getattr(quotas, "reserve", None)) != awaited:
        message = "an asyncio client needs the quotas of an AsyncAtlas, a blocking one those of an Atlas"
        raise TypeError(message)
    metered: C = _metered_copy(client, library, read_options(quotas, user, options), awaited=awaited)
    return metered


def _metered_copy(client: Any, library: Library, meter: Meter, *, awaited: bool) -> Any:
    # Add the hooks of `observe` to a private copy.
    inner = client.copy()
    observe(inner, awaited=awaited)
    interceptor = _AsyncInterceptor(inner, library, meter) if awaited else _BlockingInterceptor(inner, library, meter)

    def copy(*args: Any, **changes: Any) -> Any:
        return _metered_copy(client.copy(*args, **changes), library, meter, awaited=awaited)

    metered = client.copy()
    vars(metered).update(request=interceptor.request, copy=copy, with_options=copy)
    library.prepare(metered)
    return metered


class _Interceptor:
    def __init__(self, inner: Any, library: Library, meter: Meter) -> None:
        self._inner = inner
        self._library = library
        self._meter = meter

    def _call(self, options: Any, *, stream: bool) -> MeteredCall | None:
        """Return the call to meter; None if it is free. Raises InvalidInput for a call that cannot be metered."""
        if options.method.lower() in _FREE_METHODS:
            return None
        path = "/" + urlsplit(options.url).path.strip("/").removeprefix("v1/")
        if any(path == free or path.startswith(f"{free}/") for free in self._meter.unmetered):
            return None
        api = self._library.api(path)
        if api is None:
            return None
        if options.content is not None or not isinstance(options.json_data or {}, Mapping):
            raise InvalidInput("a request without JSON cannot be metered", field="body")
        headers = options.headers if isinstance(options.headers, Mapping) else {}
        raw = next((value for name, value in headers.items() if name.lower() == _RAW), None)
        if raw == "stream" or (raw and stream):
            message = "a raw stream cannot be metered: use stream=True, or with_raw_response without a stream"
            raise InvalidInput(message, field="stream")
        body = plain({**(options.json_data or {}), **(options.extra_json or {})}, self._library.absent)
        return MeteredCall(self._meter, api, body)

    def _stream_class(self, stream_cls: Any, kind: int) -> Any:
        """Return our stream class in place of the library's, for the same events."""
        origin, events = getattr(stream_cls, "__origin__", None), getattr(stream_cls, "__args__", ())
        if origin is not self._library.streams[kind]:
            raise InvalidInput(
                f"the stream class {stream_cls!r} is not the library's, so it cannot be metered", field="stream_cls"
            )
        ours: Any = self._library.watched[kind]
        return ours[events]


def _limited(options: Any, body: dict[str, Any]) -> Any:
    return options.model_copy(update={"json_data": body, "extra_json": None})


def _payload(result: Any) -> object:
    """Return the JSON of a raw response, or the answer itself."""
    response = getattr(result, "http_response", result if hasattr(result, "status_code") else None)
    if response is None:
        return result
    try:
        return response.json()
    except ValueError:
        return None


class _BlockingInterceptor(_Interceptor):
    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Call the client's `request` under a guard."""
        call = self._call(options, stream=stream)
        if call is None:
            return self._inner.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        if stream:
            stream_cls = self._stream_class(stream_cls, 0)
        guard = self._meter.quotas.guard(self._meter.payer, **call.reservation_options)
        context = copy_context()
        context.run(guard.__enter__)
        with watching(lambda: call.reserve_again(guard)) as attempts:
            try:
                limited = _limited(options, call.granted(guard))
                result = self._inner.request(cast_to, limited, stream=stream, stream_cls=stream_cls)
            except BaseException as error:
                call.failed(guard, error, attempts)
                context.run(guard.__exit__, type(error), error, error.__traceback__)
                raise
        call.lost = attempts.lost
        if isinstance(result, self._library.watched[0]):
            watched: Any = result
            watched.watch = Watch(call, guard, context)
            watched.watch.hook(watched.response)
            return result
        try:
            call.answered(guard, _payload(result))
        finally:
            context.run(guard.__exit__, None, None, None)
        return result


class _AsyncInterceptor(_Interceptor):
    async def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Call the client's `request` under a guard."""
        call = self._call(options, stream=stream)
        if call is None:
            return await self._inner.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        if stream:
            stream_cls = self._stream_class(stream_cls, 1)
        guard = self._meter.quotas.guard(self._meter.payer, **call.reservation_options)
        context = copy_context()
        await within(context, guard.__aenter__())
        with watching(lambda: call.reserve_again(guard)) as attempts:
            try:
                limited = _limited(options, call.granted(guard))
                result = await self._inner.request(cast_to, limited, stream=stream, stream_cls=stream_cls)
            except BaseException as error:
                call.failed(guard, error, attempts)
                await within(context, guard.__aexit__(type(error), error, error.__traceback__))
                raise
        call.lost = attempts.lost
        if isinstance(result, self._library.watched[1]):
            watched: Any = result
            watched.watch = AsyncWatch(call, guard, context)
            watched.watch.hook(watched.response)
            return result
        try:
            call.answered(guard, _payload(result))
        finally:
            await within(context, guard.__aexit__(None, None, None))
        return result
