"""Set up a database, examine one, plan its migrations: the library of `atlasctl db init`, `doctor` and `migrate`.

::

    from atlas_sdk.provision import Address, examine, set_up

    address = Address(dsn="postgresql://admin@db.example/atlas")
    setup = set_up(address, app_user="shop")          # database, roles, schema, grants; a second call changes nothing
    for command in setup.commands:                    # an administrator must run these
        print(command.database, command.text)
    for finding in examine(address).findings:
        print(finding.name, finding.verdict, finding.detail, *finding.fix)

The server must be PostgreSQL 15 or newer. Every call blocks, and uses connections of its own.
"""

from atlas_sdk.provision.address import Address
from atlas_sdk.provision.doctor import examine
from atlas_sdk.provision.findings import Diagnosis, Finding
from atlas_sdk.provision.setup import set_up
from atlas_sdk.provision.steps import AdminCommand, Setup, SetupStep
from atlas_sdk.provision.upgrade import Lock, PendingMigration, embedded, migrate, plan_migrations

__all__ = [
    "Address",
    "AdminCommand",
    "Diagnosis",
    "Finding",
    "Lock",
    "PendingMigration",
    "Setup",
    "SetupStep",
    "embedded",
    "examine",
    "migrate",
    "plan_migrations",
    "set_up",
]
