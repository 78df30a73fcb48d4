"""Plans: operations as generators that yield effects.

A plan yields an effect (a statement to run, a local call, …) and gets the answer sent back; the plan itself does no
I/O. One plan runs on the blocking driver, on the asyncio driver, and in tests that step two plans on two connections in
a chosen order. A plan keeps its state in local variables only, so a retry just starts a new plan.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from attrs import frozen

from atlas_sdk._sql import Statement
from atlas_sdk.errors import AtlasError

if TYPE_CHECKING:
    from atlas_sdk._context import Context

__all__ = [
    "Array",
    "Begin",
    "Commit",
    "Effect",
    "GetContext",
    "Json",
    "Local",
    "Plan",
    "Query",
    "Result",
    "Rollback",
    "Script",
    "atomic",
    "context",
    "enclosed",
    "execute",
    "local",
    "local_in",
    "many",
    "one",
    "one_or_none",
    "scalar",
]

T = TypeVar("T")
P = ParamSpec("P")


@frozen
class Query:
    """A statement to run with these parameters; the answer is a `Result`."""

    statement: Statement
    parameters: Mapping[str, object]


@frozen
class Local:
    """A function to call (for files, locks); the answer is its return value. Asyncio runs it in a thread."""

    call: Callable[[], object]
    #: The threads that asyncio uses; None means the event loop's default threads.
    executor: Executor | None = None


@frozen
class Begin:
    """The start of a transaction, or of a savepoint if a transaction is already open."""


@frozen
class Commit:
    """The successful end of the transaction or savepoint of the matching `Begin`."""


@frozen
class Rollback:
    """The rollback of the transaction or savepoint of the matching `Begin`. An enclosing transaction stays open."""


@frozen
class GetContext:
    """A request for the `Context` of the client that runs the plan."""


Effect = Query | Local | Begin | Commit | Rollback | GetContext

#: The answer depends on the effect, so the send type is `object`, and each helper below narrows it.
Plan = Generator[Effect, object, T]

#: A sequence of plans: a script yields plans and gets back the result or the error of each (`_script.py`).
Script = Generator[Plan[Any], Any, T]


@frozen
class Json:
    """A parameter for a jsonb column."""

    value: object


@frozen
class Array:
    """A parameter for an array column or an array of a batch, one of the types of `_drive.arrays`; None is NULL.

    The statement casts the parameter to the same type.
    """

    #: "uuid", "text", "bytea", "int4", "int8" or "timestamptz".
    of: str
    values: Sequence[object]


@frozen
class Result:
    """The result of a statement: column names, rows, and the number of affected rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    count: int


def context() -> Plan["Context"]:
    """Return the context of the client that runs the plan."""
    answer = yield GetContext()
    return cast("Context", answer)


def local(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Call a function that does I/O other than SQL, such as file access."""
    answer = yield Local(lambda: call(*args, **kwargs))
    return cast("T", answer)


def local_in(executor: Executor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Call a function that takes long; asyncio runs it in the threads of this executor."""
    answer = yield Local(lambda: call(*args, **kwargs), executor)
    return cast("T", answer)


def execute(statement: Statement, /, **parameters: object) -> Plan[int]:
    """Run a statement for its effect; return the number of affected rows."""
    answer = yield Query(statement, parameters)
    return cast("Result", answer).count


def many(statement: Statement, model: Callable[..., T], /, **parameters: object) -> Plan[list[T]]:
    """Run a statement; return an object for each row: the result of `model` with the columns as keyword arguments."""
    answer = yield Query(statement, parameters)
    result = cast("Result", answer)
    return [model(**dict(zip(result.columns, row, strict=True))) for row in result.rows]


def one_or_none(statement: Statement, model: Callable[..., T], /, **parameters: object) -> Plan[T | None]:
    """Run a statement that returns at most one row; return the row as an object, or None."""
    rows = yield from many(statement, model, **parameters)
    if len(rows) > 1:
        message = f"{statement.name} gave {len(rows)} rows where at most one was expected"
        raise AssertionError(message)
    return rows[0] if rows else None


def one(statement: Statement, model: Callable[..., T], /, **parameters: object) -> Plan[T]:
    """Run a statement that returns exactly one row; return the row as an object."""
    row = yield from one_or_none(statement, model, **parameters)
    if row is None:
        message = f"{statement.name} gave no row where exactly one was expected"
        raise AssertionError(message)
    return row


def scalar(statement: Statement, kind: type[T], /, **parameters: object) -> Plan[T]:
    """Run a statement that returns one row of one column; return that value."""
    answer = yield Query(statement, parameters)
    ((value,),) = cast("Result", answer).rows
    if not isinstance(value, kind):
        message = f"{statement.name} gave a {type(value).__name__} where a {kind.__name__} was expected"
        raise TypeError(message)
    return value


def enclosed(plan: Plan[T]) -> Plan[T]:
    """Run a plan in a transaction of its own, or in a savepoint if a transaction is already open."""
    yield Begin()
    try:
        result = yield from plan
    except AtlasError:
        yield Rollback()
        raise
    yield Commit()
    return result


def atomic(operation: Callable[P, Plan[T]]) -> Callable[P, Plan[T]]:
    """Run all statements of this operation in one transaction, or in a savepoint if a transaction is already open."""

    @wraps(operation)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Plan[T]:
        return enclosed(operation(*args, **kwargs))

    return wrapped
