"""Either client behind one way of calling, with any options: what is awaited on asyncio is waited for here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from atlas_sdk import AsyncAtlas, AsyncListener, Atlas
from atlas_sdk._namespaces import AsyncNamespace


class Either:
    """Something of the asyncio client, called as its blocking twin is."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name.startswith("_"):
            return found
        if not callable(found):
            return Either(found, self._loop) if isinstance(found, AsyncNamespace) else found

        def call(*args: Any, **kwargs: Any) -> Any:
            made = found(*args, **kwargs)
            answer = self._loop.run_until_complete(made) if inspect.isawaitable(made) else made
            return Either(answer, self._loop) if isinstance(answer, (AsyncListener, AsyncAtlas)) else answer

        return call

    def __enter__(self) -> Any:
        self._loop.run_until_complete(self._target.__aenter__())
        return self

    def __exit__(self, *of_error: object) -> None:
        self._loop.run_until_complete(self._target.__aexit__(*of_error))

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._target)
        try:
            while True:
                yield self._loop.run_until_complete(anext(items))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(items.aclose())

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        opened = self._target.transaction()
        inside = Either(self._loop.run_until_complete(opened.__aenter__()), self._loop)
        try:
            yield _Topics(inside._target, self._loop)
        except BaseException as exc:
            if not self._loop.run_until_complete(opened.__aexit__(type(exc), exc, exc.__traceback__)):
                raise
        else:
            self._loop.run_until_complete(opened.__aexit__(None, None, None))


class _Topics(Either):
    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return super().__getattr__(name) if name.startswith("_") or callable(found) else _Topics(found, self._loop)


Open = Callable[..., Any]


@contextmanager
def opener(kind: str) -> Iterator[Open]:
    """Give what opens clients of this kind, "blocking" or "asyncio", and close them at the end."""
    opened: list[Any] = []
    loop = asyncio.new_event_loop()

    def open_one(dsn: str | None, **options: Any) -> Any:
        if kind == "blocking":
            client: Any = Atlas.open(dsn, **options)
        else:
            target = AsyncAtlas.open(dsn, **options)
            loop.run_until_complete(target.connect())
            client = Either(target, loop)
        opened.append(client)
        return client

    try:
        yield open_one
    finally:
        for client in opened:
            client.close()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
