"""Many puts from one process, one after the other, and the verification of all versions."""

import time

from benchmarks import histories
from benchmarks.bench import Bench
from benchmarks.table import Row, count, exactly, per_second


def bulk(bench: Bench) -> list[Row]:
    """Put and verify the versions of one generated history."""
    history = histories.made(7, 250 if bench.quick else 1_000, 20_000)
    user, project = bench.tenant("bulk")
    began = time.perf_counter()
    for content in history.versions:
        bench.atlas.memory.snapshot(project, "MEMORY.md", content)
    put = time.perf_counter()
    verified = bench.atlas.memory.verify(user)
    done = time.perf_counter()
    total = len(history.versions)
    return [
        Row(what=f"rate of {total:,} puts", ours=per_second(total / (put - began)), note="one process"),
        Row(
            what="rate of verifying",
            ours=per_second(verified.versions / (done - put)),
            note=f"{verified.content_bytes / 1e6 / (done - put):,.0f} MB/s",
        ),
        Row(what="versions verified", ours=count(verified.versions - len(verified.broken)), target=exactly(total)),
    ]
