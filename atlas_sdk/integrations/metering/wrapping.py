"""Wrap a copy of the caller's client, so that every request goes through a meter.

Both libraries send everything through their client's `request`: resources, `with_raw_response`, helpers, `client.post`.
So this module intercepts that one method. It refuses by default: a POST must be metered by an `Endpoint` or listed as
free.
"""

import inspect
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from atlas_sdk import InvalidInput, QuotaExceeded, User
from atlas_sdk.integrations.bounds import check_counted
from atlas_sdk.integrations.metering.attempts import observe, watching
from atlas_sdk.integrations.metering.call import MeteredCall
from atlas_sdk.integrations.metering.endpoint import Endpoint, plain
from atlas_sdk.integrations.metering.options import Meter, Metering, read_options, whole
from atlas_sdk.integrations.metering.streams import AsyncWatch, Watch, within
from atlas_sdk.integrations.usage import as_data

__all__ = ["Library", "guard_client", "refused"]

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

    def endpoint(self, path: str, meter: Meter) -> Endpoint | None:
        """Return the endpoint of a POST to this path; None if it is free. Raises InvalidInput for other paths."""
        ...

    def prepare(self, client: Any) -> None:
        """Disable every part of a client whose requests do not go through `request`."""
        ...


def refused(path: str, *, batches: bool) -> InvalidInput:
    """Return the error for a POST whose usage the client would not see."""
    advice = (
        "reserve the batch with `quotas.reserve`, send it with the client itself, and settle the usage of its results "
        "when it has ended: see docs/metering.md"
        if batches
        else "use the client itself, or add the path to unmetered="
    )
    return InvalidInput(
        f"a guarded client does not post to {path}, because its usage would not be counted: {advice}", field="path"
    )


def guard_client(client: C, library: Library, quotas: Any, user: User | Callable[[], User], options: Metering) -> C:
    """Return a metered copy of a client, which shares its connections. Raises TypeError, InvalidInput."""
    if not all(callable(getattr(client, name, None)) for name in ("request", "copy", "with_options")):
        message = f"{type(client).__qualname__} is no client of the provider's library that can be metered"
        raise TypeError(message)
    # The clients of clouds have no base class in common with the usual ones. An asyncio client's `request` is async.
    awaited = inspect.iscoroutinefunction(type(client).request)  # type: ignore[attr-defined]  # checked above
    if inspect.iscoroutinefunction(getattr(quotas, "reserve", None)) != awaited:
        kind, other = ("an asyncio", "an AsyncAtlas") if awaited else ("a blocking", "an Atlas")
        message = f"{type(client).__qualname__} is {kind} client, so it needs the quotas of {other}"
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

    def _request(self, options: Any, *, stream: bool) -> tuple[Endpoint, dict[str, Any]] | None:
        """Return endpoint and body to meter; None if free. Raises InvalidInput for a call that cannot be metered."""
        if options.method.lower() in _FREE_METHODS:
            return None
        path = "/" + urlsplit(options.url).path.strip("/").removeprefix("v1/")
        if any(path == free or path.startswith(f"{free}/") for free in self._meter.unmetered):
            return None
        endpoint = self._library.endpoint(path, self._meter)
        if endpoint is None:
            return None
        if options.content is not None or not isinstance(options.json_data or {}, Mapping):
            raise InvalidInput("a request without JSON cannot be metered", field="body")
        headers = options.headers if isinstance(options.headers, Mapping) else {}
        raw = next((value for name, value in headers.items() if name.lower() == _RAW), None)
        if raw == "stream" or (raw and stream):
            message = "a raw stream cannot be metered: use stream=True, or with_raw_response without a stream"
            raise InvalidInput(message, field="stream")
        return endpoint, plain({**(options.json_data or {}), **(options.extra_json or {})}, self._library.absent)

    def _counting(self, endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Return a request to the provider's counter; None if the caller does not want it, or it does not exist.

        Raises InvalidInput for input that the counter cannot see.
        """
        counting = endpoint.counter(body) if self._meter.asks_provider else None
        if counting is not None:
            check_counted(body, counting[1].keys())
        return counting

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


def _counted(answer: object) -> int:
    return whole("input_tokens", as_data(answer).get("input_tokens"))


def _payload(result: Any) -> object:
    """Return the JSON of a raw response, its text if it is no JSON, or the answer itself."""
    response = getattr(result, "http_response", result if hasattr(result, "status_code") else None)
    if response is None:
        return result
    try:
        data = response.json()
    except ValueError:
        return response.text
    return data if isinstance(data, Mapping) else response.text


class _BlockingInterceptor(_Interceptor):
    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Call the client's `request` under a guard."""
        metered = self._request(options, stream=stream)
        if metered is None:
            return self._inner.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        if stream:
            stream_cls = self._stream_class(stream_cls, 0)
        counting = self._counting(*metered)
        counted = None
        if counting is not None:
            counted = _counted(self._inner.post(counting[0], body=counting[1], cast_to=object))
        call = MeteredCall(self._meter, *metered, counted)
        guard = self._meter.quotas.guard(self._meter.payer, **call.reservation_options)
        context = copy_context()
        try:
            context.run(guard.__enter__)
        except QuotaExceeded as refusal:
            raise call.explained(refusal)  # noqa: B904  # the same error, with a longer sentence
        with watching(lambda: call.reserve_again(guard), self._meter.charges) as attempts:
            try:
                limited = _limited(options, call.granted(guard))
                result = self._inner.request(cast_to, limited, stream=stream, stream_cls=stream_cls)
            except BaseException as error:
                call.failed(guard, error, attempts)
                context.run(guard.__exit__, type(error), error, error.__traceback__)
                raise
        call.lost, call.unknown = attempts.lost, attempts.unknown
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
        metered = self._request(options, stream=stream)
        if metered is None:
            return await self._inner.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        if stream:
            stream_cls = self._stream_class(stream_cls, 1)
        counting = self._counting(*metered)
        counted = None
        if counting is not None:
            counted = _counted(await self._inner.post(counting[0], body=counting[1], cast_to=object))
        call = MeteredCall(self._meter, *metered, counted)
        guard = self._meter.quotas.guard(self._meter.payer, **call.reservation_options)
        context = copy_context()
        try:
            await within(context, guard.__aenter__())
        except QuotaExceeded as refusal:
            raise call.explained(refusal)  # noqa: B904  # the same error, with a longer sentence
        with watching(lambda: call.reserve_again(guard), self._meter.charges) as attempts:
            try:
                limited = _limited(options, call.granted(guard))
                result = await self._inner.request(cast_to, limited, stream=stream, stream_cls=stream_cls)
            except BaseException as error:
                call.failed(guard, error, attempts)
                await within(context, guard.__aexit__(type(error), error, error.__traceback__))
                raise
        call.lost, call.unknown = attempts.lost, attempts.unknown
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
