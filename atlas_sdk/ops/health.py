"""Check the health of the database."""

import time

from atlas_sdk._plan import Plan
from atlas_sdk.model.health import Health
from atlas_sdk.ops import schema

__all__ = ["look"]


def look() -> Plan[Health]:
    """Read facts from the server and measure the round trip. Raises the driver's error if there is no answer."""
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
