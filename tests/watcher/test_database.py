"""What the daemon says of a database that it cannot use."""

from __future__ import annotations

import logging
from typing import NoReturn

import pytest

from atlas_sdk import AtlasError, DatabaseUnreachable, SchemaMismatch
from watcher.database import Database

LATER = "changes are saved on this machine until the database is back"


def never() -> NoReturn:
    raise AssertionError("nothing here connects")


@pytest.mark.parametrize(
    ("problem", "logged"),
    [
        (
            SchemaMismatch("the schema has version 3, not 4", found=3, wanted=4, migratable=True),
            f"the schema has version 3, not 4; run: atlasctl db migrate; {LATER}",
        ),
        (
            SchemaMismatch("the schema has version 5, not 4", found=5, wanted=4),
            f"the schema has version 5, not 4; {LATER}",
        ),
        (
            DatabaseUnreachable("no connection"),
            f"no connection; {LATER}",
        ),
    ],
)
def test_a_problem_is_logged_once_with_the_command_that_helps(
    problem: AtlasError, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(never)
    with caplog.at_level(logging.WARNING):
        database.failed(problem)
        since = database.status.since
        database.failed(problem)
    assert caplog.messages == [logged]
    assert database.status.problem is not None
    assert logged.startswith(database.status.problem)
    assert database.status.since == since
