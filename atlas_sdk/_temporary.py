"""Make and drop the database of a temporary client."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from atlas_sdk._connect import Options, prepare
from atlas_sdk._drive import Driver
from atlas_sdk._embedded import temporary_database
from atlas_sdk.errors import InvalidInput
from atlas_sdk.ops import schema
from atlas_sdk.signing_keys import SigningKeys

__all__ = ["temporary"]


@contextmanager
def temporary(options: Options) -> Iterator[tuple[str, Options]]:
    """Make a temporary database; yield its address and the options of a client. Drop the database at the end.

    Raises InvalidInput for the option `home`: a temporary database gets a home of its own, which is removed at the end.
    """
    if options.get("home") is not None:
        raise InvalidInput("a temporary database has a home of its own; leave `home` out", field="home")
    with temporary_database(_migrate) as dsn:
        # No home, so that the journal of the user's own home stays untouched: its records belong to another database.
        yield dsn, {"signing_keys": SigningKeys.generate(), **options, "home": os.devnull}


def _migrate(dsn: str) -> None:
    opened = prepare(dsn, {})
    driver = Driver(opened.config, opened.context)
    try:
        driver.open()
        driver.run(schema.migrate())
    finally:
        driver.close()
        opened.release()
