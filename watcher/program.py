"""Run the daemon with the settings of a program, for `atlas-watcher` and `atlasctl watch`."""

import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from atlas_sdk import MissingExtra
from atlas_sdk.config import Settings
from watcher import daemon
from watcher.captures import SummaryLog
from watcher.maintenance import RetentionPolicy
from watcher.status import Status

if TYPE_CHECKING:
    from watcher.metrics import Metrics

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    *,
    load: Callable[[], Settings],
    on_terminal: bool = False,
    told: Callable[[Status], None] | None = None,
    metrics_port: int | None = None,
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

    metrics = _metrics(metrics_port)
    summaries = SummaryLog()

    def report(status: Status) -> None:
        summaries.report(status)
        for listener in (told, None if metrics is None else metrics.report):
            if listener is not None:
                listener(status)

    hangs_up = on_terminal and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    try:
        code = daemon.run(
            dsn=settings.database_url,
            home=settings.folder,
            retention=RetentionPolicy.of(settings),
            reread=None if hangs_up else reread,
            told=report,
        )
    finally:
        if metrics is not None:
            metrics.close()
    summaries.end()
    return code


def _metrics(port: int | None) -> "Metrics | None":
    """Start the endpoint. Without it the daemon works as well, so a failure is an error in the log and no more."""
    if port is None:
        return None
    from watcher.metrics import Metrics  # noqa: PLC0415 - few daemons have metrics

    try:
        return Metrics(port)
    except (MissingExtra, OSError) as problem:
        _log.error("no metrics on port %d: %s", port, problem)
        return None
