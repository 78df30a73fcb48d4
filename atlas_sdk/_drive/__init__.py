"""Drivers: run plans on psycopg connections, blocking or on asyncio. The only place that touches one."""

from atlas_sdk._drive.asynchronous import AsyncDriver
from atlas_sdk._drive.blocking import Driver
from atlas_sdk._drive.connection_config import ConnectionConfig, TimeLimits
from atlas_sdk._drive.listener import AsyncListener, Listener

__all__ = ["AsyncDriver", "AsyncListener", "ConnectionConfig", "Driver", "Listener", "TimeLimits"]
