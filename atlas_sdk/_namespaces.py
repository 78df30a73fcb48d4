"""Turn a plan into a method of a namespace, blocking or awaited, with the plan's own signature.

::

    class Users(Namespace):           create = sync_method(users.create)
    class AsyncUsers(AsyncNamespace): create = async_method(users.create)
"""

from collections.abc import Awaitable, Callable, Coroutine
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from atlas_sdk._plan import Plan
from atlas_sdk._retry import again, again_async
from atlas_sdk.errors import AtlasError

__all__ = ["AsyncNamespace", "AsyncRunner", "Namespace", "Runner", "async_method", "sync_method"]

T = TypeVar("T")
P = ParamSpec("P")


class Runner(Protocol):
    """Runs plans, blocking."""

    @property
    def retries(self) -> int:
        """How often a call is repeated that changed nothing."""
        ...

    def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end."""
        ...


class AsyncRunner(Protocol):
    """Runs plans on asyncio."""

    @property
    def retries(self) -> int:
        """How often a call is repeated that changed nothing."""
        ...

    def run(self, plan: Plan[T]) -> Awaitable[T]:
        """Run a plan to its end."""
        ...


class Namespace:
    """The operations of one topic on a blocking client."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner


class AsyncNamespace:
    """The operations of one topic on an asyncio client."""

    def __init__(self, runner: AsyncRunner) -> None:
        self._runner = runner


class _Method(Generic[P, T]):
    def __init__(self, operation: Callable[P, Plan[T]]) -> None:
        self._operation = operation
        self._name = operation.__name__
        self.__doc__ = operation.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name


class sync_method(_Method[P, T]):  # noqa: N801  # reads as a decorator does
    """A method that runs the plan and returns its result."""

    @overload
    def __get__(self, namespace: None, owner: type) -> Callable[P, Plan[T]]: ...
    @overload
    def __get__(self, namespace: Namespace, owner: type) -> Callable[P, T]: ...
    def __get__(self, namespace: Namespace | None, owner: type) -> Any:
        if namespace is None:
            # help() and inspect read the plan's signature and docstring.
            return self._operation
        runner, operation = namespace._runner, self._operation  # noqa: SLF001  # the other half of one mechanism

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return runner.run(operation(*args, **kwargs))
            except AtlasError as problem:
                if not problem.repeatable or not runner.retries:
                    raise
                first = problem
            return again(
                lambda: runner.run(operation(*args, **kwargs)), first, name=operation.__name__, retries=runner.retries
            )

        # The instance keeps the method, so that later calls find it there without this descriptor.
        return namespace.__dict__.setdefault(self._name, update_wrapper(method, operation))


class async_method(_Method[P, T]):  # noqa: N801  # reads as a decorator does
    """A method that returns a coroutine which runs the plan."""

    @overload
    def __get__(self, namespace: None, owner: type) -> Callable[P, Plan[T]]: ...
    @overload
    def __get__(self, namespace: AsyncNamespace, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, namespace: AsyncNamespace | None, owner: type) -> Any:
        if namespace is None:
            # help() and inspect read the plan's signature and docstring.
            return self._operation
        runner, operation = namespace._runner, self._operation  # noqa: SLF001  # the other half of one mechanism

        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await runner.run(operation(*args, **kwargs))
            except AtlasError as problem:
                if not problem.repeatable or not runner.retries:
                    raise
                first = problem
            return await again_async(
                lambda: runner.run(operation(*args, **kwargs)), first, name=operation.__name__, retries=runner.retries
            )

        # The instance keeps the method, so that later calls find it there without this descriptor.
        return namespace.__dict__.setdefault(self._name, update_wrapper(method, operation))
