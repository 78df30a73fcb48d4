"""Scripts: operations that go on when one of their plans fails.

A plan is one piece of work, which a database error ends. A script yields plans, one after the other, and gets back what
each returned, or the error that it raised. It does no I/O itself, so one script runs with both faces.
"""

from collections.abc import Generator
from typing import Any, TypeVar

from atlas_sdk._faces import AsyncRunner, Runner
from atlas_sdk._plan import Plan

__all__ = ["Script", "perform", "perform_async"]

T = TypeVar("T")

#: What is sent back is what the yielded plan returned.
Script = Generator[Plan[Any], Any, T]


def perform(runner: Runner, script: Script[T]) -> T:
    """Run a script to its end, blocking. An interruption comes to it as an exception, too."""
    try:
        plan = next(script)
        while True:
            try:
                answer = runner.run(plan)
            except BaseException as problem:  # noqa: BLE001  # the script raises it again
                plan = script.throw(problem)
            else:
                plan = script.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def perform_async(runner: AsyncRunner, script: Script[T]) -> T:
    """Run a script to its end, on asyncio. The twin of `perform`, line by line."""
    try:
        plan = next(script)
        while True:
            try:
                answer = await runner.run(plan)
            except BaseException as problem:  # noqa: BLE001  # the script raises it again
                plan = script.throw(problem)
            else:
                plan = script.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
