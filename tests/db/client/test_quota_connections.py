"""Quotas have connections of their own: no number of open transactions keeps a guard waiting."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from threading import Barrier

import pytest
from client_adapter import Open
from patience import PATIENCE_S

from atlas_sdk import AsyncAtlas, Atlas, DatabaseUnreachable

POOL = 3


def test_guards_inside_as_many_transactions_as_the_pool_allows(dsn: str) -> None:
    with Atlas.open(dsn, pool_max=POOL) as atlas, ThreadPoolExecutor(POOL) as threads:
        user = atlas.users.create("ada@example.com")
        all_open = Barrier(POOL)

        def work(number: int) -> int:
            with atlas.transaction() as tx:
                tx.events.log("test.began", user=user)
                all_open.wait(PATIENCE_S)
                with atlas.quotas.guard(user, tokens=10) as g:
                    g.settle(tokens=number)
                atlas.quotas.hit(user)
            return g.tokens

        assert list(threads.map(work, range(POOL))) == [10] * POOL
        assert atlas.quotas.usage(user).tokens_used == sum(range(POOL))


def test_guards_inside_as_many_transactions_on_asyncio(dsn: str) -> None:
    async def work() -> int:
        async with AsyncAtlas.open(dsn, pool_max=POOL) as atlas, AsyncExitStack() as transactions:
            user = await atlas.users.create("ada@example.com")
            for _ in range(POOL):
                await transactions.enter_async_context(atlas.transaction())
            for _ in range(POOL):
                async with atlas.quotas.guard(user, tokens=10) as g:
                    g.settle(tokens=1)
            return (await atlas.quotas.usage(user)).tokens_used

    assert asyncio.run(work()) == POOL


def test_an_exhausted_pool_says_what_to_change(open_client: Open, dsn: str) -> None:
    client = open_client(dsn, pool_max=1, connect_timeout_s=0.3)
    with (
        client.transaction(),
        pytest.raises(DatabaseUnreachable, match=r"free within 0\.3 s: 1 of at most 1 \(pool_max\) are in use"),
    ):
        client.users.list()


def test_their_connections_are_opened_when_they_are_needed(open_client: Open, dsn: str) -> None:
    client = open_client(dsn, pool_max=7)
    user = client.users.create("ada@example.com")
    before = client.pool()
    assert (before.quotas.size, before.quotas.size_max, before.quotas.requests) == (0, 7, 0)
    client.quotas.hit(user)
    after = client.pool()
    assert (after.quotas.size, after.quotas.requests) == (1, 1)
    assert after.requests == before.requests
    assert after.quotas.quotas is None


def test_a_forked_child_opens_its_own(dsn: str) -> None:
    with Atlas.open(dsn) as atlas:
        user = atlas.users.create("ada@example.com")
        atlas.quotas.hit(user)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with atlas.quotas.guard(user, tokens=1):
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        atlas.quotas.hit(user)
        assert atlas.quotas.usage(user).requests_last_hour == 3
