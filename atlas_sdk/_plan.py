"""Plans: operations as generators over what they need from outside.

A plan yields effects (a statement to run, a local call, …) and gets each answer sent back; it does no I/O itself. The
same plan runs on a blocking driver, on an asyncio driver, and in a test that steps two plans on two connections in a
chosen order. A plan must be restartable: it keeps no state but its local variables.
"""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Executor
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from attrs import field, frozen

from atlas_sdk._heads import HeadCache
from atlas_sdk._keyring import Keyring
from atlas_sdk._sql import Statement
from atlas_sdk.errors import AtlasError, NotPermitted
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.origin import Origin

__all__ = [
    "Begin",
    "Commit",
    "Context",
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
    """Run this statement with these parameters; the answer is a `Result`."""

    statement: Statement
    parameters: Mapping[str, object]


@frozen
class Local:
    """Call this function here (files, locks); asyncio runs it in a thread. The answer is what it returns."""

    call: Callable[[], object]
    #: Whose threads asyncio takes; None: those that it has for everything.
    executor: Executor | None = None


@frozen
class Begin:
    """Start a transaction, or join the one that is open."""


@frozen
class Commit:
    """End what the matching `Begin` started."""


@frozen
class Rollback:
    """Undo what the matching `Begin` started; inside a larger transaction that goes with it."""


@frozen
class GetContext:
    """Ask for the `Context` of the client that runs the plan."""


Effect = Query | Local | Begin | Commit | Rollback | GetContext

#: What is sent back depends on the effect, so the send type is `object` and each helper below narrows it.
Plan = Generator[Effect, object, T]

#: Several plans, one after the other: a script yields plans and gets back what each returned or raised (`_script.py`).
Script = Generator[Plan[Any], Any, T]


@frozen
class Json:
    """A parameter for a jsonb column."""

    value: object


@frozen
class Result:
    """The result of a statement: column names, rows, and the number of affected rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    count: int


@frozen(kw_only=True)
class Context:
    """The context that a client gives to the plans that it runs."""

    #: Makes a uuid v7 (time-ordered).
    new_id: Callable[[], UUID]
    #: Who acts, for the history and the audit.
    attribution: Attribution
    #: Newest versions that this client knows, so that unchanged content costs nothing.
    heads: HeadCache
    #: Seconds that only go forward.
    monotonic: Callable[[], float]
    #: Where the request came from that this is done for, for the audit.
    origin: Origin = field(factory=Origin)
    #: The one user whose rows everything is done with, by row-level security; None: the login's own rights.
    tenant: UUID | None = None
    #: What session tokens are signed with.
    keyring: Keyring = field(factory=Keyring, repr=False)

    def require_tenant(self, user_id: object) -> None:
        """Refuse what is another user's, before anything is asked: so it says nothing of it. Raises NotPermitted."""
        if self.tenant is not None and user_id != self.tenant:
            raise NotPermitted("this client acts for one user alone, and this is not that user's")


def context() -> Plan[Context]:
    """Ask for the running client's context."""
    answer = yield GetContext()
    return cast("Context", answer)


def local(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Call a function that touches files or the like."""
    answer = yield Local(lambda: call(*args, **kwargs))
    return cast("T", answer)


def local_in(executor: Executor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Call a function that takes long, in threads that nothing else waits for."""
    answer = yield Local(lambda: call(*args, **kwargs), executor)
    return cast("T", answer)


def execute(statement: Statement, /, **parameters: object) -> Plan[int]:
    """Run a statement for its effect; return the number of rows that it touched."""
    answer = yield Query(statement, parameters)
    return cast("Result", answer).count


def many(statement: Statement, model: Callable[..., T], /, **parameters: object) -> Plan[list[T]]:
    """Run a statement; return its rows as objects, by column name."""
    answer = yield Query(statement, parameters)
    result = cast("Result", answer)
    return [model(**dict(zip(result.columns, row, strict=True))) for row in result.rows]


def one_or_none(statement: Statement, model: Callable[..., T], /, **parameters: object) -> Plan[T | None]:
    """Run a statement that gives at most one row."""
    rows = yield from many(statement, model, **parameters)
    if len(rows) > 1:
        message = f"{statement.name} gave {len(rows)} rows where at most one was expected"
        raise AssertionError(message)
    return rows[0] if rows else None


def one(statement: Statement, model: Callable[..., T], /, **parameters: object) -> Plan[T]:
    """Run a statement that gives exactly one row."""
    row = yield from one_or_none(statement, model, **parameters)
    if row is None:
        message = f"{statement.name} gave no row where exactly one was expected"
        raise AssertionError(message)
    return row


def scalar(statement: Statement, kind: type[T], /, **parameters: object) -> Plan[T]:
    """Run a statement that gives one row of one column."""
    answer = yield Query(statement, parameters)
    ((value,),) = cast("Result", answer).rows
    if not isinstance(value, kind):
        message = f"{statement.name} gave a {type(value).__name__} where a {kind.__name__} was expected"
        raise TypeError(message)
    return value


def enclosed(plan: Plan[T]) -> Plan[T]:
    """Run a plan in a transaction of its own; inside an open one, in a part of it that is kept or undone as a whole."""
    yield Begin()
    try:
        result = yield from plan
    except AtlasError:
        yield Rollback()
        raise
    yield Commit()
    return result


def atomic(operation: Callable[P, Plan[T]]) -> Callable[P, Plan[T]]:
    """Run all statements of this operation in one transaction; inside an open one they join it."""

    @wraps(operation)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Plan[T]:
        return enclosed(operation(*args, **kwargs))

    return wrapped
