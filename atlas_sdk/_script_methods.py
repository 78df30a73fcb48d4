"""Turn a script into a method of a namespace, blocking or awaited, with the script's own signature."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from atlas_sdk._namespaces import AsyncRunner, Awaited, Runner, method
from atlas_sdk._script import run_script, run_script_async

__all__ = ["script_method"]

T = TypeVar("T")
P = ParamSpec("P")


class script_method(method[P, T]):  # noqa: N801  # reads as a decorator does
    """A method that runs a script. Nothing repeats it: a part of its work may be done."""

    def _blocking(self, runner: Runner) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return run_script(runner, self._checked(*args, **kwargs))

        return call

    def _awaited(self, runner: AsyncRunner) -> Callable[P, Awaited[T]]:
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await run_script_async(runner, self._checked(*args, **kwargs))

        return call
