"""Puts of unchanged content, which need no round trip and almost no time."""

import logging
from typing import Self

from atlas_sdk import Atlas
from benchmarks.bench import Bench
from benchmarks.puts import versions
from benchmarks.table import Row, at_most, count, exactly, ms
from benchmarks.timing import Times, elapsed

_LOGGER = logging.getLogger("atlas_sdk.queries")


class StatementCounter(logging.Handler):
    """A counter of the statements of a client that was opened with `query_log`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the name of one statement."""
        self.names.append(str(record.args[0]) if isinstance(record.args, tuple) and record.args else record.msg)

    def __enter__(self) -> Self:
        _LOGGER.addHandler(self)
        _LOGGER.setLevel(logging.DEBUG)
        _LOGGER.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        _LOGGER.removeHandler(self)
        _LOGGER.setLevel(logging.NOTSET)
        _LOGGER.propagate = True


def unchanged(bench: Bench) -> list[Row]:
    """Put each version twice; the second time nothing has changed."""
    contents = versions(bench, 50 if bench.quick else 150)
    _, project = bench.tenant("unchanged")
    puts, repeats = Times(), Times()
    for path, content in contents:
        puts.seconds.append(elapsed(lambda p=path, c=content: bench.atlas.memory.snapshot(project, p, c)))
        repeats.seconds.append(elapsed(lambda p=path, c=content: bench.atlas.memory.snapshot(project, p, c)))
    asked_for_puts, asked_for_repeats = _statements(bench, contents[:20])
    return [
        Row(
            what="statements for an immediate repeat",
            ours=count(asked_for_repeats),
            target=exactly(0),
            note=f"{asked_for_puts} for the {len(contents[:20])} puts between them",
        ),
        Row(
            what="unchanged content, p50 : durable put",
            ours=ms(repeats.p50),
            peer=ms(puts.p50),
            target=at_most(0.1),
            note=repeats.spread(),
        ),
    ]


def _statements(bench: Bench, contents: list[tuple[str, bytes]]) -> tuple[int, int]:
    _, project = bench.tenant("counted")
    asked = {"put": 0, "repeat": 0}
    with StatementCounter() as counter, Atlas.open(home=bench.home, query_log=True) as atlas:
        for path, content in contents:
            for turn in asked:
                counter.names.clear()
                atlas.memory.snapshot(project, path, content)
                asked[turn] += len(counter.names)
    return asked["put"], asked["repeat"]
