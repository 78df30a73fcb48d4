"""The count of requests alone, compared with other rate limiters."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from atlas_sdk import Atlas, User
from benchmarks.bench import Bench
from benchmarks.peers import MissingPeer, needs_module
from benchmarks.quota_pairs import metered_users
from benchmarks.redis_server import redis_server
from benchmarks.slices import Slice, crew, paired, run_for, take_slices
from benchmarks.table import Row, Target, at_least, count, exactly, per_second
from benchmarks.timing import Times

_LIMIT = 10**8
_THREADS = 8
_OURS = "hit"
#: Our contender that loses the last half second in a crash of the server.
_FORGETFUL = "hit, not durable"
#: Targets by the peer's name in the table. In a crash, Redis in memory loses everything. `hit` and Redis that syncs
#: lose nothing.
_LIMITS: dict[str, Target | None] = {
    "limits FixedWindow, Redis": at_least(0.5),
    "limits MovingWindow, Redis": None,
    "limits FixedWindow, Redis that syncs": at_least(0.5),
    "limits MovingWindow, Redis that syncs": None,
}
_PYRATE = "PyrateLimiter, Postgres bucket"


def quota_rates(bench: Bench) -> list[Row]:
    """Compare `hit` with the `limits` library on Redis, and with PyrateLimiter on the same PostgreSQL."""
    (user,) = metered_users(bench, "rates", 1)
    rows = []
    try:
        needs_module("limits", "limits>=5.8")
        needs_module("redis", "redis>=8")
        with (
            redis_server(bench.scratch / "redis") as address,
            redis_server(bench.scratch / "redis-syncs", durable=True) as syncing,
        ):
            for clients in (1, 8):
                rows += _beside_limits(bench, user, (address, syncing), clients)
    except MissingPeer as problem:
        rows += [
            Row(what=f"{_alike(name)} : {name}", missing=str(problem), target=target)
            for name, target in _LIMITS.items()
        ]
    try:
        needs_module("pyrate_limiter", "pyrate-limiter>=4.5")
        rows += _beside_pyrate(bench, user)
    except MissingPeer as problem:
        rows.append(Row(what=f"hit : {_PYRATE}", missing=str(problem)))
    return rows


@contextmanager
def _client(
    home: Path, user: User, addresses: Sequence[str], _number: int
) -> Iterator[Mapping[str, Callable[[], object]]]:
    from limits import RateLimitItemPerHour
    from limits.storage import storage_from_string
    from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

    item = RateLimitItemPerHour(_LIMIT)
    limiters = [
        strategy(storage)
        for storage in map(storage_from_string, addresses)
        for strategy in (FixedWindowRateLimiter, MovingWindowRateLimiter)
    ]
    with Atlas.open(home=home) as atlas:
        calls: dict[str, Callable[[], object]] = {
            _OURS: lambda: atlas.quotas.hit(user),
            _FORGETFUL: lambda: atlas.quotas.hit(user, durable=False),
        }
        for name, limiter in zip(_LIMITS, limiters, strict=True):
            calls[name] = lambda limiter=limiter: limiter.hit(item, type(limiter).__name__)
        for call in calls.values():
            call()
        yield calls


def _beside_limits(bench: Bench, user: User, addresses: Sequence[str], clients: int) -> list[Row]:
    with crew(clients, _client, bench.home, user, addresses) as running:
        done = take_slices(running.slice, (_OURS, _FORGETFUL, *_LIMITS), rounds=5 if bench.quick else 12, seconds=0.7)
    return [_compared(done, _alike(name), name, clients, target) for name, target in _LIMITS.items()]


def _alike(name: str) -> str:
    """Return our contender that is as durable as this peer in a crash of the server."""
    return _OURS if name.endswith("syncs") else _FORGETFUL


def _compared(done: Mapping[str, list[Slice]], our: str, name: str, clients: int, target: Target | None) -> Row:
    ours, theirs = done[our], done[name]
    ratio, note = paired(ours, theirs)
    return Row(
        what=f"{our} : {name}, {clients} client{'s'[: clients - 1]}",
        ours=per_second(statistics.median(each.rate for each in ours)),
        peer=per_second(statistics.median(each.rate for each in theirs)),
        paired=ratio,
        target=target,
        note=note,
    )


def _beside_pyrate(bench: Bench, user: User) -> list[Row]:
    from psycopg_pool import ConnectionPool
    from pyrate_limiter import Duration, Limiter, PostgresBucket, Rate

    refused = 0

    def acquire(limiter: Limiter) -> None:
        nonlocal refused
        if not limiter.try_acquire("bench", blocking=False):
            refused += 1

    dsn = bench.new_database("pyrate")
    with ConnectionPool(dsn, min_size=_THREADS, max_size=2 * _THREADS) as pool, Atlas.open(home=bench.home) as atlas:
        # Use one limiter per thread, as separate processes would. A shared limiter has a lock that also refuses calls.
        limiters = [Limiter(PostgresBucket(pool, "bench", [Rate(_LIMIT, Duration.HOUR)])) for _ in range(_THREADS)]
        calls: dict[str, list[Callable[[], object]]] = {
            _OURS: [lambda: atlas.quotas.hit(user)] * _THREADS,
            _PYRATE: [lambda limiter=limiter: acquire(limiter) for limiter in limiters],
        }
        asked = 0
        with ThreadPoolExecutor(_THREADS) as threads:

            def run(name: str, seconds: float) -> Slice:
                nonlocal asked
                before = refused
                until = time.monotonic() + seconds
                done = list(threads.map(lambda call: run_for(call, until), calls[name]))
                times = Times(list(chain.from_iterable(took for _, took in done)))
                rate = sum(each for each, _ in done)
                if name == _OURS:
                    return Slice(rate, times)
                asked += len(times)
                # Refused requests do not count as served.
                return Slice(rate * (1 - (refused - before) / len(times)), times)

            done = take_slices(run, tuple(calls), rounds=4 if bench.quick else 8, seconds=1.0)
        for limiter in limiters:
            limiter.close()
    ratio, note = paired(done[_OURS], done[_PYRATE])
    return [
        Row(
            what=f"hits admitted, {_THREADS} threads : {_PYRATE}",
            ours=per_second(statistics.median(each.rate for each in done[_OURS])),
            peer=per_second(statistics.median(each.rate for each in done[_PYRATE])),
            paired=ratio,
            note=note,
        ),
        Row(
            what="refused far below the limit, of all that were asked",
            ours=count(0),
            peer=count(refused),
            target=exactly(0),
            note=f"{refused / asked:.1%} of {asked:,} calls of the bucket: it locks its table, and does not wait",
        ),
    ]
