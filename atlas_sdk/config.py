"""Settings, by precedence: flag, `ATLAS_*`, the project's `.atlas.toml`, the user's `config.toml`, default."""

import os
from pathlib import Path

import platformdirs

__all__ = ["home_folder"]


def home_folder() -> Path:
    """Return where the embedded database, the spool and the state live: ATLAS_HOME, else the user's data folder."""
    given = os.environ.get("ATLAS_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_path("atlasengine", appauthor=False))
