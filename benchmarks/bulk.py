"""Many puts from one process, one by one and in batches, and the verification of all versions."""

import time
from statistics import median

from attrs import frozen

from atlas_sdk.model.blobs import Blob, encode, sha256_of
from benchmarks import histories
from benchmarks.bench import Bench
from benchmarks.table import Row, at_least, count, exactly, per_second

#: The files of a batch, the versions of each, and their size: small files of an agent, of which each step changes many.
_FILES, _VERSIONS, _BYTES = 100, 20, 3_000
_ROUNDS = 5


def bulk(bench: Bench) -> list[Row]:
    """Put and verify the versions of one generated history; put those of many files at once."""
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
        *_batches(bench),
    ]


@frozen
class _Round:
    batch: float
    encoding: float
    singly: float


def _batches(bench: Bench) -> list[Row]:
    files = [histories.made(seed, _VERSIONS, _BYTES).versions for seed in range(_FILES)]
    rounds = [_round(bench, number, files) for number in range(2 if bench.quick else _ROUNDS)]
    rates = _Round(*(median(getattr(one, name) for one in rounds) for name in ("batch", "encoding", "singly")))
    size = sum(len(content) for versions in files for content in versions) / (_FILES * _VERSIONS)
    return [
        Row(
            what="snapshot_many / hash + encode alone",
            ours=per_second(rates.batch),
            peer=per_second(rates.encoding),
            paired=median(one.batch / one.encoding for one in rounds),
            target=at_least(0.5),
            note=f"{_FILES * _VERSIONS:,} versions of {size:,.0f} bytes, {_FILES} files",
        ),
        Row(
            what="snapshot_many / one by one",
            ours=per_second(rates.batch),
            peer=per_second(rates.singly),
            paired=median(one.batch / one.singly for one in rounds),
            target=at_least(2.0),
        ),
    ]


def _round(bench: Bench, number: int, files: list[tuple[bytes, ...]]) -> _Round:
    """Return the rates of one round, in versions a second; the contenders take turns, each with its own tenant."""
    memory = bench.atlas.memory
    _, batched = bench.tenant(f"batch{number}")
    _, single = bench.tenant(f"single{number}")
    # An agent's step changes many files; the next one changes them again.
    items = [(batched, f"notes/{file}.md", files[file][step]) for step in range(_VERSIONS) for file in range(_FILES)]
    began = time.perf_counter()
    memory.snapshot_many(items)
    batch = time.perf_counter() - began
    began = time.perf_counter()
    for versions in files:
        base: Blob | None = None
        before: bytes | None = None
        for content in versions:
            base = encode(content, sha256=sha256_of(content), base=base, base_content=before)
            before = content
    encoding = time.perf_counter() - began
    few = items[: len(items) // 4]
    began = time.perf_counter()
    for _, path, content in few:
        memory.snapshot(single, path, content)
    singly = time.perf_counter() - began
    return _Round(len(items) / batch, len(items) / encoding, len(few) / singly)
