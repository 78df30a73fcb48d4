"""A durable put, compared with the peers' ways to store the same bytes. The contenders take turns."""

import asyncio
import time
from contextlib import AbstractContextManager, ExitStack
from typing import cast

from atlas_sdk import AsyncAtlas, Atlas, Project
from benchmarks import histories
from benchmarks.bench import Bench
from benchmarks.peers import PEERS, MissingPeer
from benchmarks.table import Row, Target, at_least, at_most, ms
from benchmarks.timing import Contender, Times, elapsed, take_turns

_WARM_UP = 8
_SIZES = {"low_bytes": 12_000, "high_bytes": 30_000}
_TARGETS: dict[str, Target] = {
    "append + fdatasync": at_most(3),
    "langgraph-checkpoint-postgres put": at_most(0.65),
    "git add + commit": at_least(10),
    "dulwich, in process": at_least(14),
}


class _Ours:
    every = 1

    def __init__(self, atlas: Atlas, project: Project) -> None:
        self._atlas = atlas
        self._project = project

    def put(self, path: str, content: bytes) -> float:
        return elapsed(lambda: self._atlas.memory.snapshot(self._project, path, content))


class _OursAwaited:
    every = 1

    def __init__(self, runner: asyncio.Runner, atlas: AsyncAtlas, project: Project) -> None:
        self._runner = runner
        self._atlas = atlas
        self._project = project

    def put(self, path: str, content: bytes) -> float:
        return self._runner.run(self._timed(path, content))

    async def _timed(self, path: str, content: bytes) -> float:
        began = time.perf_counter()
        await self._atlas.memory.snapshot(self._project, path, content)
        return time.perf_counter() - began


def versions(bench: Bench, limit: int) -> list[tuple[str, bytes]]:
    """Return successive versions with the sizes of memory files."""
    return histories.pick(bench.corpus, limit=limit, **_SIZES)


def puts(bench: Bench) -> list[Row]:
    """Compare a put with each peer's."""
    contents = versions(bench, _WARM_UP + (80 if bench.quick else 240))
    contenders: dict[str, Contender] = {"ours": _Ours(bench.atlas, bench.tenant("puts")[1])}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        awaited = AsyncAtlas.open(home=bench.home)
        runner.run(awaited.__aenter__())
        stack.callback(lambda: runner.run(awaited.close()))
        contenders["awaited"] = _OursAwaited(runner, awaited, bench.tenant("awaited")[1])
        for name, opened in PEERS.items():
            try:
                contenders[name] = stack.enter_context(cast("AbstractContextManager[Contender]", opened(bench)))
            except MissingPeer as problem:
                missing[name] = str(problem)
        taken = take_turns(list(contenders.values()), contents, warm_up=_WARM_UP)
    times = dict(zip(contenders, taken, strict=True))
    rows = []
    for name, target in _TARGETS.items():
        if name in missing:
            rows.append(Row(what=f"durable put, p50 : {name}", missing=missing[name], target=target))
        else:
            rows += _compared(times["ours"], name, times[name], target)
    rows.append(
        Row(
            what="AsyncAtlas put, p50 : Atlas put",
            ours=ms(times["awaited"].p50),
            peer=ms(times["ours"].p50),
            note=times["awaited"].spread(),
        )
    )
    return rows


def _compared(ours: Times, name: str, theirs: Times, target: Target) -> list[Row]:
    note = f"n {len(ours)} and {len(theirs)}"
    return [
        Row(what=f"durable put, p50 : {name}", ours=ms(ours.p50), peer=ms(theirs.p50), target=target, note=note),
        Row(what=f"             p90 : {name}", ours=ms(ours.p90), peer=ms(theirs.p90)),
    ]
