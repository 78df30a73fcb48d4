"""Find the database that a command is about, and print its address."""

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from atlas_sdk.cli.command import Flags
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.provision import Address

__all__ = ["check_one", "configured", "configured_or_variables", "place"]


def check_one(flags: "Flags") -> None:
    """Refuse a command line that names two databases, or an empty folder. Raises UsageError."""
    ctx = click.get_current_context(silent=True)
    if flags.home == "":
        # An unset shell variable gives this. Falling back to the environment could open a wrong database.
        raise click.UsageError("--home is empty: give a folder, or leave the option out", ctx)
    if flags.home and flags.dsn:
        raise click.UsageError(
            "--dsn is a server and --home the folder of the embedded database: give one of them; beside a server, "
            "ATLAS_HOME says where the watcher keeps its state",
            ctx,
        )


def place(run: "Invocation") -> str:
    """Return the address of the database, without a password."""
    from atlas_sdk.dsn import masked
    from atlas_sdk.text import printable

    found = run.settings.database_url
    return f"embedded, in {printable(str(run.settings.folder))}" if found is None else masked(found)


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
