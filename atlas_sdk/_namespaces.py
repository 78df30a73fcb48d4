"""Turn a plan into a method of a namespace, blocking or awaited, with the plan's own signature.

::

    class UserOperations:
        create = method(users.create)

    class Users(UserOperations, Namespace): ...              # atlas.users.create(…) returns a User
    class AsyncUsers(UserOperations, AsyncNamespace): ...    # atlas.users.create(…) returns a coroutine
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import cached_property
from inspect import Parameter, Signature
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from atlas_sdk._plan import Plan
from atlas_sdk._retry import again, again_async
from atlas_sdk._signatures import annotations_of, checked, method_signature, present_as
from atlas_sdk.errors import AtlasError

__all__ = ["AsyncNamespace", "AsyncRunner", "Namespace", "Runner", "method"]

T = TypeVar("T")
P = ParamSpec("P")
Awaited = Coroutine[Any, Any, T]


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

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__doc__ is None:
            # A class of `topics` is described where its operations are; help() shows no docstring of a base class.
            cls.__doc__ = cls.__bases__[0].__doc__

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


class method(Generic[P, T]):  # noqa: N801  # reads as a decorator does
    """A method that runs a plan: it returns the result in a `Namespace`, and a coroutine in an `AsyncNamespace`."""

    def __init__(self, operation: Callable[P, Generator[Any, Any, T]]) -> None:
        self._operation = operation
        self._name = operation.__name__
        self.__doc__ = operation.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    # Compute these at the first use, not at import: a process uses few operations, and each one takes about 0.1 ms.
    @cached_property
    def _checked(self) -> Callable[P, Generator[Any, Any, T]]:
        return checked(self._operation)

    @cached_property
    def _signature(self) -> Signature:
        return method_signature(self._operation)

    @cached_property
    def _annotations(self) -> dict[str, Any]:
        return annotations_of(self._signature)

    @overload
    def __get__(
        self, namespace: None, owner: "type[AsyncNamespace]"
    ) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, namespace: None, owner: type) -> Callable[Concatenate[Any, P], T]: ...
    @overload
    def __get__(self, namespace: AsyncNamespace, owner: type) -> Callable[P, Awaited[T]]: ...
    @overload
    def __get__(self, namespace: Namespace, owner: type) -> Callable[P, T]: ...
    def __get__(self, namespace: Namespace | AsyncNamespace | None, owner: type) -> Any:
        if namespace is None:
            return self._of_class(is_async=issubclass(owner, AsyncNamespace))
        runner = namespace._runner  # noqa: SLF001  # this class serves the namespace
        make: Callable[[Any], Callable[P, Any]] = (
            self._awaited if isinstance(namespace, AsyncNamespace) else self._blocking
        )
        shown = present_as(make(runner), self._operation, self._signature, self._annotations)
        # Let the instance keep the method, so that later calls find it there without this descriptor.
        return namespace.__dict__.setdefault(self._name, shown)

    def _of_class(self, *, is_async: bool) -> Callable[..., Any]:
        """Return the method of the class, with `self`, as help() and inspect show it."""

        def unbound(me: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            return getattr(me, self._name)(*args, **kwargs)

        async def unbound_async(me: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            return await getattr(me, self._name)(*args, **kwargs)

        me = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        signature = self._signature.replace(parameters=[me, *self._signature.parameters.values()])
        function = unbound_async if is_async else unbound
        return present_as(function, self._operation, signature, annotations_of(signature))

    def _blocking(self, runner: Runner) -> Callable[P, T]:
        operation = self._checked

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return runner.run(operation(*args, **kwargs))
            except AtlasError as problem:
                if not problem.repeatable or not runner.retries:
                    raise
                first = problem
            return again(lambda: runner.run(operation(*args, **kwargs)), first, name=self._name, retries=runner.retries)

        return call

    def _awaited(self, runner: AsyncRunner) -> Callable[P, Awaited[T]]:
        operation = self._checked

        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await runner.run(operation(*args, **kwargs))
            except AtlasError as problem:
                if not problem.repeatable or not runner.retries:
                    raise
                first = problem
            return await again_async(
                lambda: runner.run(operation(*args, **kwargs)), first, name=self._name, retries=runner.retries
            )

        return call
