"""The server that the options, the environment or the configuration name."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.provision import Address


def configured(run: "Invocation") -> "Address | None":
    """Return the server of --dsn, ATLAS_DATABASE_URL or the configuration; None means the embedded database."""
    from atlas_sdk.provision import Address

    dsn = run.settings.database_url
    if dsn is None:
        return None
    if run.flags.dsn:
        return Address(dsn=dsn, source="--dsn")
    return Address(dsn=dsn, source="ATLAS_DATABASE_URL" if os.environ.get("ATLAS_DATABASE_URL") else "config.toml")


def configured_or_variables(run: "Invocation") -> "Address | None":
    """Return the configured server, else, without --home, that of DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD."""
    from atlas_sdk.provision import Address

    found = configured(run)
    if found is None and not run.flags.home:
        return Address.of_environment(os.environ)
    if unused := [name for name in Address.VARIABLES if os.environ.get(name)]:
        source = "--home" if found is None else found.source
        run.out.note(f"{', '.join(unused)}: not used, because {source} comes first")
    return found
