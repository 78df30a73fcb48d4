"""Reads of the newest version, and of the version at the end of the longest chain of deltas."""

from benchmarks import histories
from benchmarks.bench import Bench
from benchmarks.table import Row, ms
from benchmarks.timing import Times, elapsed

#: More versions than a chain may have deltas.
_VERSIONS = 320
_DEEPEST = """
    SELECT s.id, b.depth FROM memory_snapshots s JOIN memory_blobs b ON b.user_id = s.user_id AND b.sha256 = s.sha256
    WHERE s.user_id = %s AND s.project_id = %s ORDER BY b.depth DESC, s.seq DESC LIMIT 1
"""
_FLAT = """
    SELECT s.id FROM memory_snapshots s JOIN memory_blobs b ON b.user_id = s.user_id AND b.sha256 = s.sha256
    WHERE s.user_id = %s AND s.project_id = %s AND b.depth = 0 ORDER BY s.seq DESC LIMIT 1
"""


def reads(bench: Bench) -> list[Row]:
    """Read the newest version, the version with the longest chain, and a keyframe in turn."""
    longest = max(bench.corpus.histories, key=lambda history: (len(history.versions), history.name))
    history = longest if len(longest.versions) >= _VERSIONS else histories.made(1, _VERSIONS, 20_000)
    memory = bench.atlas.memory
    user, project = bench.tenant("reads")
    path = f"{history.name}.md"
    for content in history.versions[:_VERSIONS]:
        memory.snapshot(project, path, content)
    deep_id, depth = bench.row(_DEEPEST, user.id, project.id)
    (flat_id,) = bench.row(_FLAT, user.id, project.id)
    deep, flat = memory.version(project, path, str(deep_id)), memory.version(project, path, str(flat_id))
    times = {
        "newest version, by its name": (Times(), lambda: memory.read(project, path)),
        f"content after {depth} deltas": (Times(), lambda: memory.content(deep)),
        "content of a keyframe": (Times(), lambda: memory.content(flat)),
    }
    for _ in range(40 if bench.quick else 120):
        for measured, call in times.values():
            measured.seconds.append(elapsed(call))
    return [
        Row(what=f"{name}, p50", ours=ms(measured.p50), note=measured.spread()) for name, (measured, _) in times.items()
    ]
