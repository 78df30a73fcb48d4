"""From psycopg_pool's counters to ours."""

from collections.abc import Mapping

from atlas_sdk.model.pool import PoolStats

__all__ = ["stats_of"]


def stats_of(found: Mapping[str, int], *, spare: int = 0, reused: int = 0) -> PoolStats:
    """Put the counters of a pool in our words; those that never moved are missing in psycopg_pool's.

    `spare` are connections that it takes for used while they wait for us, `reused` is how often one of them was used.
    """
    size, idle = found.get("pool_size", 0), found.get("pool_available", 0) + spare
    return PoolStats(
        size=size,
        size_max=found.get("pool_max", 0),
        idle=idle,
        in_use=max(0, size - idle),
        waiting=found.get("requests_waiting", 0),
        requests=found.get("requests_num", 0) + reused,
        waits=found.get("requests_queued", 0),
        waited_s=found.get("requests_wait_ms", 0) / 1000,
        refused=found.get("requests_errors", 0),
        used_s=found.get("usage_ms", 0) / 1000,
        opened=found.get("connections_num", 0) - found.get("connections_errors", 0),
        opening_s=found.get("connections_ms", 0) / 1000,
        failed=found.get("connections_errors", 0),
        lost=found.get("connections_lost", 0) + found.get("returns_bad", 0),
    )
