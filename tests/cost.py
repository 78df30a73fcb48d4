"""Measurements of CPU time, compared with a fixed piece of work, so that a busy machine changes little."""

import time
import tracemalloc

__all__ = ["assert_cheap", "cpu_s", "peak_bytes"]


def cpu_s(call):
    """Run a call twice; return the smaller CPU time of this thread."""
    took = []
    for _ in range(2):
        before = time.thread_time()
        call()
        took.append(time.thread_time() - before)
    return min(took)


def peak_bytes(call):
    """Return the largest amount of memory that Python has allocated during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def assert_cheap(call, *, share=1.0):
    """Fail when a call takes more CPU time than `share` of a fixed piece of work: about 100 ms on a quiet core."""
    for _ in range(3):
        took = cpu_s(call)
        # A time as short as this is cheap on every machine.
        if took <= share * 0.025:
            return
        yardstick = cpu_s(lambda: sum(len(str(number)) for number in range(1_000_000)))
        if took <= share * yardstick:
            return
    raise AssertionError(f"{took * 1000:.0f} ms, and the yardstick took {yardstick * 1000:.0f} ms")
