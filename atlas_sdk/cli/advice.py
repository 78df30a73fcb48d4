"""Which command helps after an error: the library's sentences name values, these name commands."""

import os
from pathlib import Path

from atlas_sdk.errors import AtlasError, NotAProject, NotFound
from atlas_sdk.text import named

__all__ = ["advice", "holds_everything", "init_advice"]


def holds_everything(folder: Path) -> bool:
    """Tell whether a folder, its symlinks resolved, is the home folder or `/`, which `atlasctl init` refuses."""
    return folder in {Path("/"), Path(os.path.realpath(Path.home()))}


def init_advice(path: str) -> str:
    """Return how to protect this folder, to go after a sentence; for the home folder, how to protect another."""
    if holds_everything(Path(os.path.realpath(path))):
        return "; go to a project's folder and run: atlasctl init"
    return f"; run: atlasctl init {named(path)}"


def advice(problem: AtlasError) -> str:
    """Return which command helps, to go after an error's sentence; empty where the sentence says it or none does."""
    if isinstance(problem, NotAProject):
        return init_advice(problem.name)
    if isinstance(problem, NotFound) and problem.kind == "version" and "atlasctl" not in str(problem):
        return "; atlasctl log lists the versions, atlasctl checkpoints the names"
    return ""
