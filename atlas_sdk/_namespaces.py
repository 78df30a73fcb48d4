"""Turn a plan into a method of a namespace, blocking or awaited, with the plan's own signature.

::

    class Users(Namespace):           create = sync_method(users.create)
    class AsyncUsers(AsyncNamespace): create = async_method(users.create)
"""

from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property
from inspect import Parameter, Signature
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from atlas_sdk._plan import Plan
from atlas_sdk._retry import again, again_async
from atlas_sdk._signatures import annotations_of, checked, method_signature, present_as
from atlas_sdk.errors import AtlasError

__all__ = ["AsyncNamespace", "AsyncRunner", "Namespace", "Runner", "async_method", "sync_method"]

T = TypeVar("T")
P = ParamSpec("P")


class Runner(Protocol):
    """A blocking runner of plans."""

    @property
    def retries(self) -> int:
        """The most repetitions of a failed call that changed nothing."""
        ...

    def run(self, plan: Plan[T]) -> T:
        """Run a plan to its end."""
        ...


class AsyncRunner(Protocol):
    """A runner of plans for asyncio."""

    @property
    def retries(self) -> int:
        """The most repetitions of a failed call that changed nothing."""
        ...

    def run(self, plan: Plan[T]) -> Awaitable[T]:
        """Run a plan to its end."""
        ...


class _Described:
    _runner: object

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(name for name in dir(self) if not name.startswith('_'))}>"


class Namespace(_Described):
    """The operations of one topic on a blocking client."""

    def __init__(self, runner: Runner) -> None:
        self._runner: Runner = runner


class AsyncNamespace(_Described):
    """The operations of one topic on an asyncio client."""

    def __init__(self, runner: AsyncRunner) -> None:
        self._runner: AsyncRunner = runner


class _Method(Generic[P, T]):
    def __init__(self, operation: Callable[P, Plan[T]]) -> None:
        self._operation = operation
        self._name = operation.__name__
        self.__doc__ = operation.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    # Compute these at the first use, not at import: a process uses few operations, and each one takes about 0.1 ms.
    @cached_property
    def _checked(self) -> Callable[P, Plan[T]]:
        return checked(self._operation)

    @cached_property
    def _signature(self) -> Signature:
        return method_signature(self._operation)

    @cached_property
    def _annotations(self) -> dict[str, Any]:
        return annotations_of(self._signature)

    def _of_class(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method of the class, with `self`, as help() and inspect show it."""
        me = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        signature = self._signature.replace(parameters=[me, *self._signature.parameters.values()])
        return present_as(method, self._operation, signature, annotations_of(signature))

    def _keep(self, namespace: Namespace | AsyncNamespace, method: Callable[P, Any]) -> Any:
        """Let the instance keep the method, so that later calls find it there without this descriptor."""
        shown = present_as(method, self._operation, self._signature, self._annotations)
        return namespace.__dict__.setdefault(self._name, shown)


class sync_method(_Method[P, T]):  # noqa: N801  # reads as a decorator does
    """A method that runs the plan and returns its result."""

    @overload
    def __get__(self, namespace: None, owner: type) -> Callable[Concatenate[Any, P], T]: ...
    @overload
    def __get__(self, namespace: Namespace, owner: type) -> Callable[P, T]: ...
    def __get__(self, namespace: Namespace | None, owner: type) -> Any:
        if namespace is None:

            def unbound(me: Namespace, *args: P.args, **kwargs: P.kwargs) -> T:
                return self.__get__(me, owner)(*args, **kwargs)

            return self._of_class(unbound)
        runner, operation = namespace._runner, self._checked  # noqa: SLF001  # this class serves the namespace

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return runner.run(operation(*args, **kwargs))
            except AtlasError as problem:
                if not problem.repeatable or not runner.retries:
                    raise
                first = problem
            return again(lambda: runner.run(operation(*args, **kwargs)), first, name=self._name, retries=runner.retries)

        return self._keep(namespace, method)


class async_method(_Method[P, T]):  # noqa: N801  # reads as a decorator does
    """A method that returns a coroutine which runs the plan."""

    @overload
    def __get__(self, namespace: None, owner: type) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, namespace: AsyncNamespace, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, namespace: AsyncNamespace | None, owner: type) -> Any:
        if namespace is None:

            async def unbound(me: AsyncNamespace, *args: P.args, **kwargs: P.kwargs) -> T:
                return await self.__get__(me, owner)(*args, **kwargs)

            return self._of_class(unbound)
        runner, operation = namespace._runner, self._checked  # noqa: SLF001  # this class serves the namespace

        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await runner.run(operation(*args, **kwargs))
            except AtlasError as problem:
                if not problem.repeatable or not runner.retries:
                    raise
                first = problem
            return await again_async(
                lambda: runner.run(operation(*args, **kwargs)), first, name=self._name, retries=runner.retries
            )

        return self._keep(namespace, method)
