"""Drivers, which run plans on psycopg connections, blocking or on asyncio. Only this package uses connections."""

from atlas_sdk._drive.asynchronous import AsyncDriver
from atlas_sdk._drive.blocking import Driver
from atlas_sdk._drive.connection_config import ConnectionConfig, TimeLimits
from atlas_sdk._drive.listener import AsyncListener, Listener
from atlas_sdk._drive.wakeups import AsyncWakeups, Wakeups

__all__ = [
    "AsyncDriver",
    "AsyncListener",
    "AsyncWakeups",
    "ConnectionConfig",
    "Driver",
    "Listener",
    "TimeLimits",
    "Wakeups",
]
