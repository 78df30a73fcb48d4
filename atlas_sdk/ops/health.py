"""One look at the database."""

import time

from atlas_sdk._plan import Plan
from atlas_sdk.model.health import Health
from atlas_sdk.ops import schema

__all__ = ["look"]


def look() -> Plan[Health]:
    """Ask the server for its facts and time the answer. Raises what the driver raises when there is none."""
    applied = yield from schema.status()
    began = time.perf_counter()
    facts = yield from schema.server()
    return Health(
        ok=True,
        latency_ms=(time.perf_counter() - began) * 1000,
        server_version=facts.server_version,
        schema_version=len(applied) or None,
        database_bytes=facts.database_bytes,
    )
