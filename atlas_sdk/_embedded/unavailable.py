"""The replacement for `server` on systems without an embedded server (Windows): every start raises an error."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from atlas_sdk.errors import EmbeddedServerFailed

__all__ = ["EmbeddedServer", "temporary_database"]


class EmbeddedServer:
    """A server that cannot start."""

    dsn: str
    data_dir: Path
    bin_dir: Path

    @classmethod
    def acquire(cls, home: Path) -> "EmbeddedServer":
        """Raise EmbeddedServerFailed on every call."""
        _refuse(home)

    def ensure_running(self) -> None:
        """Do nothing. No caller has an object of this class, because `acquire` raises."""

    def keep_for(self, seconds: float) -> None:
        """Do nothing. No caller has an object of this class, because `acquire` raises."""

    def release(self) -> None:
        """Do nothing. No caller has an object of this class, because `acquire` raises."""


def temporary_database(migrate: Callable[[str], None]) -> AbstractContextManager[str]:  # noqa: ARG001  # as in `temporary`
    """Raise EmbeddedServerFailed on every call."""
    _refuse(Path("a temporary folder"))


def _refuse(home: Path) -> NoReturn:
    raise EmbeddedServerFailed(
        f"No embedded PostgreSQL runs on this system, so the data cannot be in {home}; "
        "give a server with --dsn or ATLAS_DATABASE_URL"
    )
