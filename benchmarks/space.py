"""The stored size of whole histories, put through the SDK one version after the other."""

import gzip
import sys
from itertools import pairwise

from atlas_sdk import Atlas, IntegrityFailure, Project, Snapshot
from benchmarks.bench import Bench
from benchmarks.histories import History
from benchmarks.table import Row, at_most, bytes_, count, exactly

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CONTENT = """
    SELECT coalesce(sum(octet_length(b.data)), 0)::bigint, (SELECT count(*) FROM memory_snapshots WHERE project_id = %s)
    FROM memory_blobs b WHERE b.user_id = %s
      AND b.sha256 IN (SELECT s.sha256 FROM memory_snapshots s WHERE s.user_id = b.user_id AND s.project_id = %s)
"""
_ALL_IN = """
    SELECT sum(pg_total_relation_size(t))::bigint
    FROM unnest(ARRAY['memory_blobs', 'memory_files', 'memory_snapshots']::regclass[]) AS t
"""


def space(bench: Bench) -> list[Row]:
    """Compare the stored bytes with the size of each history when the best compressor compresses it as one piece."""
    dsn = bench.new_database("space")
    sums = {"stored": 0, "versions": 0, "whole": 0, "gzip": 0}
    each = []
    intact = 0
    with Atlas.open(dsn, migrate=True, prepare_statements=True) as atlas:
        user = atlas.users.create("space@bench.example")
        for history in bench.corpus.histories:
            project = atlas.projects.create(user, path=bench.home / "projects" / history.name)
            for content in history.versions:
                atlas.memory.snapshot(project, "MEMORY.md", content)
            intact += _read_back(atlas, project, history)
            stored, versions = bench.row(_CONTENT, project.id, user.id, project.id, dsn=dsn)
            whole = _whole(history)
            each.append(
                Row(what=history.name[:44], ours=bytes_(stored), peer=bytes_(whole), note=f"{versions} versions")
            )
            sums["stored"] += stored
            sums["versions"] += versions
            sums["whole"] += whole
            sums["gzip"] += sum(len(gzip.compress(content, 6)) for content in history.versions)
    _vacuum(dsn)
    (all_in,) = bench.row(_ALL_IN, dsn=dsn)
    stored, versions = bytes_(sums["stored"]), sums["versions"]
    return [
        Row(
            what="content : zstd -22 --long of each whole",
            ours=stored,
            peer=bytes_(sums["whole"]),
            target=at_most(1.25),
            note=f"{versions} versions",
        ),
        Row(what="content : gzip of each version", ours=stored, peer=bytes_(sums["gzip"])),
        Row(what="content of a version", ours=bytes_(sums["stored"] / versions)),
        Row(what="tables and indexes, for a version", ours=bytes_(all_in / versions), note="after VACUUM"),
        Row(what="versions read back, byte for byte", ours=count(intact), target=exactly(versions)),
        *each,
    ]


def _read_back(atlas: Atlas, project: Project, history: History) -> int:
    """Return the number of versions that read back as they were put. Unreadable bytes would prove nothing."""
    kept = reversed(atlas.memory.history(project, "MEMORY.md", limit=len(history.versions)))
    put = [now for before, now in pairwise((None, *history.versions)) if now != before]
    return sum(_content(atlas, version) == content for version, content in zip(kept, put, strict=True))


def _content(atlas: Atlas, version: Snapshot) -> bytes | None:
    try:
        return atlas.memory.content(version)
    except IntegrityFailure:
        return None


def _whole(history: History) -> int:
    content = b"".join(history.versions)
    options = {
        zstd.CompressionParameter.compression_level: 22,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
        zstd.CompressionParameter.window_log: min(27, max(10, len(content).bit_length())),
    }
    return len(zstd.compress(content, options=options))


def _vacuum(dsn: str) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM memory_blobs, memory_files, memory_snapshots")
