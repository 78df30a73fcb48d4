"""Drivers: run plans on psycopg connections, blocking or on asyncio. The only place that touches one."""

from atlas_sdk._drive.asynchronous import AsyncDriver, AsyncView
from atlas_sdk._drive.blocking import Driver, View
from atlas_sdk._drive.greet import TimeLimits
from atlas_sdk._drive.listener import AsyncListener, Listener
from atlas_sdk._drive.target import Target

__all__ = ["AsyncDriver", "AsyncListener", "AsyncView", "Driver", "Listener", "Target", "TimeLimits", "View"]
