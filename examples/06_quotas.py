"""Limits that hold: guards around model calls, a stream that is cut, a lease for many small calls, and the ledger.

Run it: python examples/06_quotas.py
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from atlas_sdk import Atlas, QuotaExceeded, User


def call_model(max_tokens: int) -> int:
    """Stand in for a model that uses most of the tokens that it may use."""
    return max_tokens * 9 // 10


def stream_model(max_tokens: int) -> Iterator[int]:
    """Stand in for a stream that yields the tokens so far, and is cut in the middle."""
    yield from range(0, max_tokens // 2, 100)
    raise ConnectionError("the line is gone")


def guarded_calls(atlas: Atlas, user: User) -> None:
    """Let sixteen callers at once want more than is left. The limit holds, and a refused caller is not charged."""

    def one_call(_: int) -> str:
        try:
            with atlas.quotas.guard(user, tokens=1000, min_tokens=200, meta={"agent": "planner"}) as g:
                g.settle(tokens=call_model(max_tokens=g.tokens))
        except QuotaExceeded as refusal:
            return f"refused: {refusal.dimension}, {refusal.http_status}"
        return "done"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(one_call, range(16)))
    for outcome in sorted(set(outcomes)):
        print(f"{outcomes.count(outcome):3} {outcome}")


def main() -> None:
    # The database is removed at the end. In your own program, use Atlas.open().
    with Atlas.temporary() as atlas:
        user = atlas.users.create("ada@example.com", plan="pro")
        atlas.quotas.set_limits(user, tokens=10_000)
        guarded_calls(atlas, user)
        usage = atlas.quotas.usage(user)
        assert usage.tokens_used + usage.tokens_held <= 10_000
        print(f"used {usage.tokens_used} of {usage.tokens_limit}, held {usage.tokens_held}")

        atlas.quotas.grant(user, tokens=50_000, expires_in=timedelta(days=30), reason="top-up")
        try:
            with atlas.quotas.guard(user, tokens=2000) as g:
                for so_far in stream_model(g.tokens):
                    g.progress(tokens=so_far)
        except ConnectionError:
            assert g.settlement is not None
            print(f"the stream was cut: {g.settlement.tokens} tokens charged")

        # For many small calls, the lease reserves a block once and spends it in this process.
        with atlas.quotas.lease(user, tokens=5_000, requests=500) as lease:
            for _ in range(400):
                held = lease.reserve(20)
                held.settle(call_model(held.tokens))

        @atlas.quotas.guard(user, tokens=100, builds=1)
        def build(branch: str) -> str:
            return f"built {branch}"

        print(build("main"))
        with atlas.quotas.slot(user, holder="worker-1") as slot:
            print(f"a container runs, fencing number > 0: {slot.epoch is not None and slot.epoch > 0}")

        usage = atlas.quotas.usage(user)
        print(f"used {usage.tokens_used} of {usage.tokens_limit}, {usage.requests_last_hour} requests this hour")
        print(f"counters match the ledger: {atlas.quotas.verify(user).balanced}")


if __name__ == "__main__":
    main()
