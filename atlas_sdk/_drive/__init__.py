"""Drivers: run plans on psycopg connections, blocking or on asyncio. The only place that touches one."""

from atlas_sdk._drive.asynchronous import AsyncDriver, AsyncView
from atlas_sdk._drive.blocking import Driver, View
from atlas_sdk._drive.configure import TimeLimits
from atlas_sdk._drive.connection_config import ConnectionConfig
from atlas_sdk._drive.listener import AsyncListener, Listener

__all__ = ["AsyncDriver", "AsyncListener", "AsyncView", "ConnectionConfig", "Driver", "Listener", "TimeLimits", "View"]
