"""The times at which a waiting call asks again. No I/O; both backends share it."""

import random
import time
from collections.abc import Callable
from datetime import timedelta

from atlas_sdk.ops.quota_waits import Queued

__all__ = ["WaitSchedule"]

#: While notifications arrive, a call asks this often nevertheless: the database keeps its place for 15 seconds.
_RENEWED_S = 5.0
#: Without notifications, the first pause between two tries; each further one is twice as long, up to the longest.
_FIRST_S = 0.1
_LONGEST_S = 1.0
#: Pauses are shorter by up to this part, so that the calls of many processes do not ask at the same time.
_JITTER = 0.2
#: The shortest pause, so that a moment that never comes costs little.
_SHORTEST_S = 0.02


class WaitSchedule:
    """The times of one waiting call, by this process's clock."""

    def __init__(self, wait: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._deadline = self._began + wait.total_seconds()
        self._pauses = 0
        #: The time before the first try since the last pause. If its answer is lost, a second try gets the first one's
        #: reservation.
        self.asked_at = self._began
        self._has_paused = True

    def ask(self) -> tuple[timedelta, timedelta | None]:
        """Note that the call asks now; return the time that it may still wait, and the time that it has waited.

        The first is 0 for the last try; the second is None for the first try.
        """
        now = self._clock()
        if self._has_paused:
            self.asked_at, self._has_paused = now, False
        waited = timedelta(seconds=now - self._began) if self._pauses else None
        return timedelta(seconds=max(0.0, self._deadline - now)), waited

    def pause_s(self, answer: Queued, *, is_listening: bool) -> float:
        """Return the longest time until the next try."""
        self._has_paused = True
        pause = _RENEWED_S if is_listening else min(_LONGEST_S, _FIRST_S * 2.0**self._pauses)
        self._pauses = min(self._pauses + 1, 10)
        pause *= random.uniform(1 - _JITTER, 1)  # noqa: S311  # see above
        if answer.again_in is not None:
            pause = min(pause, answer.again_in.total_seconds())
        return max(0.0, min(max(pause, _SHORTEST_S), self._deadline - self._clock()))
