"""One way to call both clients: the adapter awaits what the asyncio client returns."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from atlas_sdk import AsyncAtlas, AsyncListener, Atlas
from atlas_sdk._namespaces import AsyncNamespace

#: Parametrizes a fixture with both clients.
KINDS = ["blocking", "asyncio"]

#: Opens a client of one kind: `open_client(dsn, **options)`.
Open = Callable[..., Any]


class Adapter:
    """A way to open clients of one kind and to await their results. Asyncio clients share an event loop."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.loop = asyncio.new_event_loop() if kind == "asyncio" else None
        #: The context of all steps, as if one task awaited them.
        self._context = copy_context()

    def open(self, dsn: str | None, **options: Any) -> Any:
        """Return an open client of the library, without the adapter."""
        if self.loop is None:
            return Atlas.open(dsn, **options)
        client = AsyncAtlas.open(dsn, **options)
        self.do(client.connect())
        return client

    def wrap(self, client: Any) -> Any:
        """Return the client itself if it blocks; else wrap it, so that its methods can be called without `await`."""
        return client if self.loop is None else AwaitedClient(client, self)

    def do(self, result: Any) -> Any:
        """Return a result; await it first if it is awaitable."""
        if self.loop is None or not inspect.isawaitable(result):
            return result
        if inspect.iscoroutine(result):
            result = self.loop.create_task(result, context=self._context)
        return self.loop.run_until_complete(result)

    @contextmanager
    def entered(self, manager: Any) -> Iterator[Any]:
        """Enter and leave a context manager of either kind."""
        if self.loop is None:
            with manager as inside:
                yield inside
            return
        inside = self.do(manager.__aenter__())
        try:
            yield inside
        except BaseException as exc:
            if not self.do(manager.__aexit__(type(exc), exc, exc.__traceback__)):
                raise
        else:
            self.do(manager.__aexit__(None, None, None))

    def close(self) -> None:
        """Close the event loop, if there is one."""
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


class AwaitedClient:
    """An asyncio client, one of its namespaces or a listener, which can be called without `await`."""

    def __init__(self, target: Any, adapter: Adapter) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_adapter", adapter)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._target, name, value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name.startswith("_"):
            return found
        if not callable(found):
            return AwaitedClient(found, self._adapter) if isinstance(found, AsyncNamespace) else found

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = self._adapter.do(found(*args, **kwargs))
            return AwaitedClient(answer, self._adapter) if isinstance(answer, (AsyncListener, AsyncAtlas)) else answer

        return call

    def __enter__(self) -> Any:
        self._adapter.do(self._target.__aenter__())
        return self

    def __exit__(self, *of_error: object) -> None:
        self._adapter.do(self._target.__aexit__(*of_error))

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._target)
        try:
            while True:
                yield self._adapter.do(anext(items))
        except StopAsyncIteration:
            return
        finally:
            self._adapter.do(items.aclose())

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._adapter.entered(self._target.transaction()) as inside:
            yield AwaitedClient(inside, self._adapter)


@contextmanager
def opener(kind: str) -> Iterator[Open]:
    """Yield a function that opens clients of this kind; close them at the end."""
    opened: list[Any] = []
    adapter = Adapter(kind)

    def open_client(dsn: str | None, **options: Any) -> Any:
        opened.append(adapter.wrap(adapter.open(dsn, **options)))
        return opened[-1]

    try:
        yield open_client
    finally:
        for client in opened:
            client.close()
        adapter.close()
