"""Leases, which spend blocks of a quota inside a process."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from atlas_sdk import Atlas, QuotaExceeded, User
from atlas_sdk.guards import Lease
from benchmarks.bench import Bench
from benchmarks.quota_pairs import metered_users
from benchmarks.slices import crew
from benchmarks.table import Row, at_least, at_most, count, exactly, per_second, us
from benchmarks.timing import elapsed
from benchmarks.unchanged import StatementCounter

_PROCESSES = 32
_BLOCK = 500_000
#: Requests per block. There are more than its tokens can pay for, so the tokens run out first.
_REQUESTS = 50_000
#: Tokens that are left at the end, so that all processes reach the limit.
_TAIL = 5_000_000
_PAIRS = 1_000


def quota_leases(bench: Bench) -> list[Row]:
    """Measure reserve and settle on a live lease and in the database; then measure 32 processes on one user."""
    alone, crowd = metered_users(bench, "leases", 2)
    return [*_pairs(bench, alone), *_crowd(bench, crowd)]


def _spend(lease: Lease, pairs: int) -> None:
    reserve = lease.reserve
    for _ in range(pairs):
        reserve(50).settle(40)


def _pairs(bench: Bench, user: User) -> list[Row]:
    quotas = bench.atlas.quotas

    def in_database() -> None:
        held = quotas.reserve(user, tokens=50)
        quotas.settle(user, held.id, tokens=40)

    rounds, batches = (5, 20) if bench.quick else (15, 40)
    cpu_s, wall_s, database_s, ratios = [], [], [], []
    with quotas.lease(user, tokens=10**9, requests=10**6, idle_s=3600) as lease:
        _spend(lease, _PAIRS)
        in_database()
        gc.collect()
        # Collect garbage of other sections now, not during a batch.
        gc.freeze()
        try:
            for _ in range(rounds):
                asked = [elapsed(in_database) for _ in range(batches)]
                began = time.process_time()
                spent = [elapsed(lambda: _spend(lease, _PAIRS)) / _PAIRS for _ in range(batches)]
                cpu_s.append((time.process_time() - began) / (batches * _PAIRS))
                wall_s.append(statistics.median(spent))
                database_s.append(statistics.median(asked))
                ratios.append(database_s[-1] / wall_s[-1])
        finally:
            gc.unfreeze()
    return [
        Row(
            what="reserve + settle on a live lease, CPU of a pair",
            ours=us(statistics.median(cpu_s)),
            target=at_most(2),
            note=f"process time, one thread; the best of {rounds} rounds {min(cpu_s) * 1e6:.3g} µs",
        ),
        Row(
            what="reserve + settle, p50 : the same on a live lease",
            ours=us(statistics.median(wall_s)),
            peer=us(statistics.median(database_s)),
            paired=statistics.median(ratios),
            target=at_least(400),
            note=f"{rounds} rounds from {min(ratios):,.0f} to {max(ratios):,.0f}",
        ),
    ]


@contextmanager
def _client(home: Path, user: User, number: int) -> Iterator[Mapping[str, Callable[[], object]]]:
    dice = random.Random(number)
    sizes = [dice.randint(10, 100) for _ in range(_PAIRS)]
    spent = 0
    with StatementCounter() as counter, Atlas.open(home=home, query_log=True) as atlas:
        lease = atlas.quotas.lease(user, tokens=_BLOCK, requests=_REQUESTS, idle_s=3600)

        def batch() -> None:
            nonlocal spent
            for size in sizes:
                lease.reserve(size).settle(size - 5)
            spent += sum(sizes) - 5 * len(sizes)

        def to_the_limit() -> int:
            nonlocal spent
            try:
                while True:
                    call = lease.reserve(100, min_tokens=1)
                    call.settle()
                    spent += call.tokens
            except QuotaExceeded:
                lease.close()
            return spent

        def round_trips() -> int:
            return len(counter.names)

        batch()
        yield {"batch": batch, "to the limit": to_the_limit, "round trips": round_trips}


def _crowd(bench: Bench, user: User) -> list[Row]:
    quotas = bench.atlas.quotas
    with crew(_PROCESSES, _client, bench.home, user) as clients:
        before = sum(clients.ask("round trips"))
        slices = [clients.slice("batch", 2.0) for _ in range(2 if bench.quick else 5)]
        trips = sum(clients.ask("round trips")) - before
        pairs = sum(len(each.times) for each in slices) * _PAIRS
        usage = quotas.usage(user)
        limit = usage.tokens_used + usage.tokens_held + _TAIL
        quotas.set_limits(user, tokens=limit)
        spent = sum(clients.ask("to the limit"))
    usage = quotas.usage(user)
    balanced = quotas.verify(user).balanced
    rates = sorted(each.rate * _PAIRS for each in slices)
    return [
        Row(
            what=f"pairs of {_PROCESSES} processes on one hot user",
            ours=per_second(statistics.median(rates)),
            target=at_least(200_000),
            note=f"blocks of {_BLOCK:,} tokens; {pairs:,} pairs with {trips:,} round trips; "
            f"{len(rates)} slices from {rates[0]:,.0f} to {rates[-1]:,.0f}",
        ),
        Row(
            what="tokens that they are charged - those that they used",
            ours=count(usage.tokens_used - spent),
            target=exactly(0),
            note=f"{usage.tokens_held} held, the counters {'match' if balanced else 'DO NOT MATCH'} the ledger",
        ),
        Row(
            what="tokens used, then, up to the limit : the limit",
            ours=count(usage.tokens_used),
            peer=count(limit),
            target=at_most(1),
            note=f"{limit - usage.tokens_used} left",
        ),
    ]
