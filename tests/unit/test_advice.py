"""The command that an error of the command line names; the library's messages name none."""

from __future__ import annotations

import pytest

from atlas_sdk import (
    AtlasError,
    DatabaseUnreachable,
    IntegrityFailure,
    NotFound,
    NotPermitted,
    RestoreRefused,
    SchemaMismatch,
)
from atlas_sdk.cli.advice import advice

SAID = "what happened"


@pytest.mark.parametrize(
    ("problem", "command"),
    [
        (RestoreRefused(SAID, paths=(), followed_by="undo"), "atlasctl undo"),
        (RestoreRefused(SAID, paths=()), None),
        (SchemaMismatch(SAID, found=None, wanted=9, migratable=True), "atlasctl db init"),
        (SchemaMismatch(SAID, found=3, wanted=9, migratable=True), "atlasctl db migrate"),
        (SchemaMismatch(SAID, found=3, wanted=9), None),
        (DatabaseUnreachable(SAID, sqlstate="3D000"), "atlasctl db init"),
        (DatabaseUnreachable(SAID), None),
        (NotPermitted(SAID), "atlasctl db doctor"),
        (IntegrityFailure(SAID, sha256=""), "atlasctl verify"),
        (NotFound(SAID, kind="version", name="x"), "atlasctl log"),
        (NotFound(SAID, kind="user", name="x"), None),
    ],
)
def test_an_error_names_the_command_that_helps(problem: AtlasError, command: str | None) -> None:
    found = advice(problem)
    assert (command in found) if command else found == ""
