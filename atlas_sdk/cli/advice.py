"""Advice after an error: the command that helps. The library's message tells the problem, the advice a command."""

import os
from pathlib import Path

from atlas_sdk.errors import (
    AlreadyExists,
    AtlasError,
    DatabaseUnreachable,
    IntegrityFailure,
    NotAProject,
    NotFound,
    NotPermitted,
    RestoreRefused,
    SchemaMismatch,
)
from atlas_sdk.text import named

#: PostgreSQL's code for a database that does not exist, invalid_catalog_name.
_NO_DATABASE = "3D000"


def holds_everything(folder: Path) -> bool:
    """Return whether a folder without symlinks is the home folder or `/`. `atlasctl init` refuses these two."""
    return folder in {Path("/"), Path(os.path.realpath(Path.home()))}


def init_advice(path: str) -> str:
    """Return advice to append to a message: protect this folder, or, for the home folder or `/`, a project's folder."""
    if holds_everything(Path(os.path.realpath(path))):
        return "; go to a project's folder and run: atlasctl init; for your own memory run: atlasctl init --user"
    return f"; run: atlasctl init {named(path)}"


def advice(problem: AtlasError) -> str:
    """Return a text to append to an error: the command that helps; "" if the error names it, or if none helps."""
    if isinstance(problem, NotAProject):
        if problem.border is not None and problem.outer is not None:
            return f"{init_advice(problem.border)}, or give --project {named(problem.outer)} for the outer project"
        return init_advice(problem.name)
    if isinstance(problem, AlreadyExists) and problem.kind == "project":
        return "; atlasctl projects move --force deletes that one and takes its folder"
    if isinstance(problem, NotFound) and problem.kind == "version" and "atlasctl" not in str(problem):
        return "; atlasctl log lists the versions, atlasctl checkpoints the names"
    if isinstance(problem, RestoreRefused) and problem.followed_by is not None:
        return f"; run: atlasctl {problem.followed_by}"
    if isinstance(problem, SchemaMismatch) and problem.migratable:
        return f"; run: atlasctl db {'init' if problem.found is None else 'migrate'}"
    if isinstance(problem, DatabaseUnreachable) and problem.sqlstate == _NO_DATABASE:
        return "; run: atlasctl db init"
    if isinstance(problem, NotPermitted):
        return "; atlasctl db doctor says which rights are missing"
    if isinstance(problem, IntegrityFailure):
        return "; atlasctl verify reads back every version"
    return ""
