"""Run the daemon with the settings of a program, for `atlas-watcher` and `atlasctl watch`."""

import logging
import signal
from collections.abc import Callable

from atlas_sdk.config import Settings
from watcher import daemon
from watcher.maintenance import RetentionPolicy
from watcher.status import Status

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    *,
    load: Callable[[], Settings],
    on_terminal: bool = False,
    told: Callable[[Status], None] | None = None,
) -> int:
    """Run the daemon with these settings until a signal; return the exit code.

    At SIGHUP the daemon calls `load` for the settings. Database and home stay, because they change only with a restart.
    On a terminal, SIGHUP means that the terminal was closed, and ends the daemon, unless `nohup` ignores it.
    """

    def reread() -> RetentionPolicy | None:
        found = load()
        if (found.database_url, found.folder) != (settings.database_url, settings.folder):
            _log.warning("another database or home takes effect when the watcher is started again")
        return RetentionPolicy.of(found)

    hangs_up = on_terminal and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return daemon.run(
        dsn=settings.database_url,
        home=settings.folder,
        retention=RetentionPolicy.of(settings),
        reread=None if hangs_up else reread,
        told=told,
    )
