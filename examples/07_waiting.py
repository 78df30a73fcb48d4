"""Waiting for quota instead of being refused: first come, first served, until a call ends or a top-up comes.

Run it: python examples/07_waiting.py
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from atlas_sdk import Atlas, QuotaExceeded, User


def main() -> None:
    # The database is removed at the end. In your own program, use Atlas.open().
    with Atlas.temporary() as atlas, ThreadPoolExecutor(2) as threads:
        user = atlas.users.create("ada@example.com", plan="pro")
        atlas.quotas.set_limits(user, tokens=1000)
        started = time.monotonic()

        def say(text: str) -> None:
            print(f"{time.monotonic() - started:4.1f} s  {text}", flush=True)

        say("a call uses all 1,000 tokens of the month")
        with atlas.quotas.guard(user, tokens=1000) as g:
            g.settle(tokens=1000)

        try:
            with atlas.quotas.guard(user, tokens=400, wait=timedelta(seconds=0.5)):
                raise AssertionError
        except QuotaExceeded as refusal:
            say(f"refused: {refusal}")

        def call(name: str) -> None:
            say(f"{name} waits for 400 tokens")
            with atlas.quotas.guard(user, tokens=400, wait=timedelta(seconds=60)) as g:
                say(f"{name} runs")
                time.sleep(0.5)
                g.settle(tokens=100)
            say(f"{name} has used 100 tokens")

        calls = []
        for name in ("the first call", "the second call"):
            calls.append(threads.submit(call, name))
            wait_for(atlas, user, len(calls))
        say(f"{atlas.quotas.usage(user).waiting} calls wait; a top-up of 500 tokens comes")
        atlas.quotas.grant(user, tokens=500, reason="top-up")
        for done in calls:
            done.result()
        usage = atlas.quotas.usage(user)
        assert (usage.tokens_used, usage.tokens_limit, usage.waiting) == (1200, 1500, 0)
        say(f"used {usage.tokens_used} of {usage.tokens_limit} tokens")


def wait_for(atlas: Atlas, user: User, calls: int) -> None:
    """Return when so many calls wait."""
    pause = threading.Event()
    while atlas.quotas.usage(user).waiting < calls:
        pause.wait(0.05)


if __name__ == "__main__":
    main()
