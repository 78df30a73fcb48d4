"""Budgets of streamed model calls, compared with hardcap, which publishes this load.

Tenants with a budget of tokens run streams until nothing of it is left. A stub of a provider generates the streams, and
counts what it has generated for each tenant: this is the truth, whatever the meter says. A good meter never lets it
pass the budget, leaves nothing of it unused, and ends few streams before their natural end.
"""

import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from attrs import frozen

from atlas_sdk import User
from atlas_sdk._embedded.locks import polling
from benchmarks.bench import Bench
from benchmarks.peers import MissingPeer, needs_module
from benchmarks.redis_server import redis_server
from benchmarks.stream_clients import MODEL, Load, Outcome, replica, through_gateway
from benchmarks.table import Row, at_least, at_most, count

__all__ = ["streams"]

_TENANTS = 8
_STREAMS = 128
_PROCESSES = 3
_BUDGET = 20_000
_MAX_TOKENS = 1_024
#: The stub's tokens a second and stream are hardcap's own. It sends eight tokens at once, so that two cores can read
#: a thousand streams.
_STUB = ("--median-tokens", "150", "--sigma", "0.8", "--tpot-ms", "5", "--ttft-ms", "50", "--chunk-tokens", "8")
#: Seconds until a server listens on a loaded machine, and until it ends.
_READY_S = 60.0
_END_S = 20.0


@frozen(kw_only=True)
class _Run:
    """One run of the load: what the stub generated for each tenant, and the streams that did not end by themselves."""

    generated: Sequence[int]
    cut: int
    streams: int
    seconds: float

    @property
    def over(self) -> float:
        """The worst excess over a tenant's budget, in per cent of it; below 0 if no tenant used all of it."""
        return max(100.0 * (tokens - _BUDGET) / _BUDGET for tokens in self.generated)

    @property
    def usable(self) -> float:
        """The mean of what the tenants could use, in per cent of the budget."""
        return statistics.mean(100.0 * min(tokens, _BUDGET) / _BUDGET for tokens in self.generated)


def streams(bench: Bench) -> list[Row]:
    """Run the load through our guards and through hardcap in turn; compare excess, use and cut streams."""
    needed = "hardcap>=0.1"
    try:
        needs_module("hardcap", needed)
    except MissingPeer as problem:
        return [Row(what="streams of 8 tenants : hardcap", missing=str(problem), target=at_most(0))]
    rounds = 1 if bench.quick else 3
    ours: list[_Run] = []
    theirs: list[_Run] = []
    missing = ""
    for turn in range(rounds):
        ours.append(_ours(bench, turn))
        try:
            theirs.append(_theirs(bench, turn))
        except MissingPeer as problem:
            missing = str(problem)
    return list(_rows(ours, theirs, missing))


def _rows(ours: Sequence[_Run], theirs: Sequence[_Run], missing: str) -> Iterator[Row]:
    def both(what: str, figure: Any, **more: Any) -> Row:
        peer = count(figure(theirs)) if theirs else None
        return Row(what=f"streams: {what} : hardcap", ours=count(figure(ours)), peer=peer, **more)

    took = ", ".join(
        f"{name} {statistics.mean(run.seconds for run in runs):.0f} s, "
        f"{statistics.mean(run.streams for run in runs):.0f} streams"
        for name, runs in (("ours", ours), ("hardcap", theirs))
        if runs
    )
    over, usable = max(run.over for run in ours), statistics.mean(run.usable for run in ours)
    yield Row(what="streams: worst excess over a budget, %", ours=count(over), target=at_most(0), note=took)
    yield Row(what="streams: part of the budgets that was used, %", ours=count(usable), target=at_least(99))
    if missing:
        yield Row(what="streams : hardcap", missing=missing)
    yield both("worst excess, %", lambda runs: max(run.over for run in runs))
    yield both("used, %", lambda runs: statistics.mean(run.usable for run in runs))
    yield both("cut per tenant", lambda runs: statistics.mean(run.cut / _TENANTS for run in runs), target=at_most(1))


def _ours(bench: Bench, turn: int) -> _Run:
    users = _users(bench, turn)
    with _stub() as stub:
        load = Load(stub=stub, max_tokens=_MAX_TOKENS, streams=_STREAMS // _PROCESSES + 1)
        spawn = multiprocessing.get_context("spawn")
        began = time.monotonic()
        with spawn.Pool(_PROCESSES) as pool:
            outcomes = pool.starmap(replica, [(bench.home, load, users, number) for number in range(_PROCESSES)])
        return _run(stub, [user.email for user in users], outcomes, time.monotonic() - began)


def _users(bench: Bench, turn: int) -> list[User]:
    plan: dict[str, Any] = {
        "tokens": _BUDGET,
        "cost": 1,
        "containers": 1,
        "requests_per_hour": 10**6,
        "builds_per_day": 1,
    }
    bench.atlas.quotas.add_plan(f"streams-{turn}", **plan)
    return [
        bench.atlas.users.create(f"streams-{turn}-{number}@bench.example", plan=f"streams-{turn}")
        for number in range(_TENANTS)
    ]


def _theirs(bench: Bench, turn: int) -> _Run:
    names = [f"tenant-{number}" for number in range(_TENANTS)]
    with ExitStack() as stack:
        address = stack.enter_context(redis_server(bench.scratch / f"redis-streams-{turn}"))
        stub = stack.enter_context(_stub())
        config = bench.scratch / f"hardcap-{turn}.yaml"
        # JSON is YAML.
        config.write_text(json.dumps(_config(address, stub, names)), encoding="utf-8")
        port = _free_port()
        arguments = ("serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
        stack.enter_context(_server(port, *arguments, "--workers", str(_PROCESSES)))
        load = Load(stub=f"http://127.0.0.1:{port}", max_tokens=_MAX_TOKENS, streams=_STREAMS)
        began = time.monotonic()
        outcome = asyncio.run(through_gateway(load, names))
        return _run(stub, names, [outcome], time.monotonic() - began)


def _config(redis: str, stub: str, names: Sequence[str]) -> dict[str, object]:
    """Return hardcap's configuration: its defaults, and one budget for the whole run."""
    budget = {"window_s": 86_400, "total": _BUDGET}
    return {
        "redis_url": redis.replace("redis+unix://", "unix://"),
        # Two cores are slower than its time-outs expect.
        "upstreams": {"stub": {"base_url": stub, "connect_timeout_s": _READY_S, "read_timeout_s": _READY_S}},
        "routes": {MODEL: {"targets": [{"upstream": "stub", "model": MODEL}]}},
        "tenants": {name: {"api_keys": [name], "budget": budget} for name in names},
    }


def _run(stub: str, names: Sequence[str], outcomes: Sequence[Outcome], seconds: float) -> _Run:
    with urllib.request.urlopen(f"{stub}/admin/stats", timeout=_READY_S) as answer:
        generated = json.load(answer)["tenants"]
    return _Run(
        generated=[generated[name]["prompt_tokens"] + generated[name]["completion_tokens"] for name in names],
        cut=sum(outcome.cut for outcome in outcomes),
        streams=sum(outcome.streams for outcome in outcomes),
        seconds=seconds,
    )


@contextmanager
def _stub() -> Iterator[str]:
    port = _free_port()
    seed = str(random.randrange(10**6))
    with _server(port, "mock", "--port", str(port), "--seed", seed, *_STUB) as address:
        yield address


@contextmanager
def _server(port: int, *arguments: str) -> Iterator[str]:
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "hardcap", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            if not any(_answers(address) or process.poll() is not None for _ in polling(_READY_S)):
                message = f"hardcap {arguments[0]} does not answer within {_READY_S:.0f} s"
                raise TimeoutError(message)
            yield address
        finally:
            # Its workers, too: they do not notice the end of their parent.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_END_S)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
