"""Hear of projects that other processes register, archive, move or delete.

The database sends a notification for each such change (`notify_projects` in `sql/migrations/`). A notification is only
a hint to read the list of projects, and those that are sent while the connection is lost never arrive. So the list is
also read after each new connection, and at intervals.
"""

import logging
import threading
from collections.abc import Callable

from atlas_sdk import Atlas, AtlasError, InvalidInput

_log = logging.getLogger(__name__)

#: The channel of the notifications.
CHANNEL = "atlas_projects"
#: Seconds between two attempts to connect. Later the SDK's listener connects again by itself.
_RETRY_S = 5.0


class ProjectsListener:
    """A listener in a thread of its own, which calls `changed` when the list of projects may have changed."""

    def __init__(self, changed: Callable[[], None], *, retry_s: float = _RETRY_S) -> None:
        self._changed = changed
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._stop_listening: Callable[[], None] = lambda: None
        #: True while notifications arrive, so that the list need not be read often.
        self.listening = False

    def begin(self, atlas: Atlas) -> None:
        """Begin to listen with this client's connection options; a second call does nothing."""
        if self._thread is None and not self._stopping.is_set():
            # Use a daemon thread: a server that does not answer must not keep the process alive.
            self._thread = threading.Thread(target=self._run, args=(atlas,), name="atlas-projects", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end. Any thread may call this."""
        self._stopping.set()
        self._stop_listening()

    def _run(self, atlas: Atlas) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._listen(atlas)
                except InvalidInput as problem:
                    _log.info("no notifications of new projects: %s; the list is read more often instead", problem)
                    return
                except AtlasError as problem:
                    _log.debug("cannot listen for new projects: %s", problem)
                finally:
                    self.listening = False
                self._stopping.wait(self._retry_s)
        except Exception:  # noqa: BLE001 - nothing else reports an exception of this thread
            _log.exception("cannot listen for new projects; the list is read more often instead")

    def _listen(self, atlas: Atlas) -> None:
        with atlas.listen(CHANNEL) as notifications:
            self._stop_listening = notifications.stop
            # `stop` may have come before the line above.
            if self._stopping.is_set():
                return
            self.listening = True
            # A project may have been registered between the last reading of the list and this LISTEN.
            self._changed()
            for _ in notifications:
                self._changed()
