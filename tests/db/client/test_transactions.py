"""A caller's transaction: unusable after its end, and unharmed by an interrupted operation in it."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import sys
from types import FrameType
from typing import Any

import psycopg
import pytest
from client_adapter import Open

from atlas_sdk import AsyncAtlas, Atlas, DatabaseUnreachable, InvalidInput
from atlas_sdk._drive.pooled_connection import StatementCache

#: The number of transactions whose operations are cancelled at random, and of operations in each.
ROUNDS, OPERATIONS = 60, 20


def test_a_transaction_that_has_ended_is_refused(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    user = client.users.create("ada@example.com")
    with client.transaction() as ended:
        ended.users.update(user, name="Ada")
    with pytest.raises(InvalidInput, match="this transaction has ended"):
        ended.users.get(user.id)
    with pytest.raises(InvalidInput, match="this transaction has ended"):
        ended.users.update(user, name="Somebody")
    assert client.users.get(user.id).name == "Ada"


def test_an_ended_transaction_is_not_in_the_next_one(open_client: Open, dsn: str) -> None:
    """The next transaction has the same connection, and may be another tenant's."""
    client = open_client(dsn, pool_max=1)
    mine, other = client.users.create("ada@example.com"), client.users.create("bob@example.com")
    with client.as_user(mine).transaction() as ended:
        assert ended.users.get(mine.id) == mine
    with client.transaction() as current:
        with pytest.raises(InvalidInput, match="this transaction has ended"):
            ended.users.get(mine.id)
        assert current.users.get(other.id) == other


def test_a_rolled_back_transaction_is_refused_too(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    user = client.users.create("ada@example.com")
    with pytest.raises(RuntimeError), client.transaction() as ended:
        raise RuntimeError
    with pytest.raises(InvalidInput, match="this transaction has ended"):
        ended.users.get(user.id)


def test_a_lost_commit_says_that_its_outcome_is_unknown(open_client: Open, dsn: str) -> None:
    client = open_client(dsn)
    user = client.users.create("ada@example.com")

    def commit() -> None:
        with client.transaction() as tx:
            tx.users.update(user, name="Ada")
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND state = 'idle in transaction'"
                )

    with pytest.raises(DatabaseUnreachable, match="whether it was done is unknown"):
        commit()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_cannot_use_its_parents_transaction(dsn: str) -> None:
    with Atlas.open(dsn) as client, client.transaction() as tx:
        user = tx.users.create("ada@example.com")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                tx.users.get(user.id)
            except InvalidInput:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert tx.users.get(user.id) == user


def test_an_operation_at_work_is_done_before_its_transaction_ends(dsn: str) -> None:
    async def run() -> None:
        async with AsyncAtlas.open(dsn) as client:
            user = await client.users.create("ada@example.com")
            async with client.transaction() as tx:
                task = asyncio.create_task(tx.users.update(user, name="Ada"))
                # Let the operation begin.
                await asyncio.sleep(0)
                assert tx.users._runner._lock.locked()
            assert (await task).name == "Ada"
            assert (await client.users.get(user.id)).name == "Ada"

    asyncio.run(run())


# Cancelled operations.


async def nothing(_: int) -> None:
    """Do nothing."""


async def cancelled_at_random(operate: Any, dice: random.Random, before: Any = nothing) -> set[str]:
    """Call `before` and an operation in turn, and cancel a third of the operations; return the names of the others."""
    answered = set()
    for number in range(OPERATIONS):
        name = f"round.n{number}"
        await before(number)
        try:
            async with asyncio.timeout(dice.choice([None, None, dice.uniform(0, 0.004)])):
                await operate(name)
        except TimeoutError:
            continue
        answered.add(name)
    return answered


@pytest.mark.parametrize("as_user", [False, True], ids=["owner", "as_user"])
def test_what_was_answered_stays_when_others_are_cancelled(dsn: str, *, as_user: bool) -> None:
    async def run() -> int:
        dice, cancelled = random.Random(7), 0
        async with AsyncAtlas.open(dsn, pool_max=3) as owner:
            for number in range(ROUNDS):
                user = await owner.users.create(f"{number}@example.com")
                client = owner.as_user(user) if as_user else owner
                async with client.transaction() as tx:

                    async def log(name: str, tx: Any = tx, user: Any = user) -> None:
                        await tx.events.log(name, user=user)

                    answered = await cancelled_at_random(log, dice)
                cancelled += OPERATIONS - len(answered)
                kept = {event.type for event in await owner.events.search(user, event_type="round.", limit=100)}
                assert answered <= kept
        return cancelled

    assert asyncio.run(run()) > ROUNDS, "too few were cancelled to show anything"


def test_what_is_cancelled_takes_nothing_of_the_callers_own_along(dsn: str) -> None:
    async def run() -> None:
        dice = random.Random(7)
        async with AsyncAtlas.open(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as connection:
            user = await client.users.create("ada@example.com")
            await connection.execute("CREATE TABLE orders (round integer, place integer)")
            await connection.commit()
            for number in range(ROUNDS):
                async with connection.transaction():
                    joined = client.join(connection)

                    async def order(place: int, number: int = number) -> None:
                        await connection.execute("INSERT INTO orders VALUES (%s, %s)", (number, place))

                    async def log(name: str, joined: Any = joined) -> None:
                        await joined.events.log(name, user=user)

                    await cancelled_at_random(log, dice, order)
                rows = await connection.execute("SELECT count(*) FROM orders WHERE round = %s", [number])
                assert await rows.fetchone() == (OPERATIONS,)
                await connection.rollback()

    asyncio.run(run())


# Ctrl-C.


@pytest.mark.parametrize("line", ["for command in before", "self._send(request, prepared)", "exit_pipeline_mode()"])
def test_ctrl_c_in_a_pipeline_leaves_no_connection_that_answers_nobody(dsn: str, line: str) -> None:
    source, first = inspect.getsourcelines(StatementCache._exchange)
    (number,) = (first + offset for offset, text in enumerate(source) if line in text)
    armed = True

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal armed
        if frame.f_code is not StatementCache._exchange.__code__:
            return None
        if armed and event == "line" and frame.f_lineno == number:
            armed = False
            raise KeyboardInterrupt
        return trace

    with Atlas.open(dsn, pool_max=1, statement_timeout_s=20) as client:
        user = client.users.create("ada@example.com")
        tenant = client.as_user(user)
        assert tenant.projects.list(user) == []
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with pytest.raises(KeyboardInterrupt):
                tenant.projects.list(user)
        finally:
            sys.settrace(before)
        assert client.users.get(user.id) == user
        assert tenant.projects.list(user) == []
