"""Run the race: `python -m benchmarks.race_quotas --help`."""

import argparse
import logging
import os
import platform
import random
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.race_quotas.race import Report, Settings, race
from benchmarks.race_quotas.sabotage import SABOTAGES


def _settings() -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race_quotas",
        description="Race for every limit with killed workers and a crashing server; nothing may ever be over a limit.",
        epilog="Exit code: 0, or 1 when something did not hold. The same seed makes the same dice, not the same race.",
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=16, help="workers; default 16")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--naive-processes", type=int, default=8, help="of check-then-update; default 8")
    parser.add_argument("--kills", type=int, help="workers to kill -9; default: 40 a minute")
    parser.add_argument("--pauses", type=int, help="workers to stop for some seconds; default: 5 a minute")
    parser.add_argument("--crashes", type=int, help="of the server; default: 2 a minute")
    parser.add_argument("--sabotage", choices=SABOTAGES, help="break the product first: the race has to fail then")
    given = parser.parse_args()

    def count(value: int | None, each_minute: float) -> int:
        return max(1, round(each_minute * given.minutes)) if value is None else value

    return Settings(
        seconds=given.minutes * 60,
        processes=given.processes,
        naive_processes=given.naive_processes,
        seed=given.seed,
        kills=count(given.kills, 40),
        pauses=count(given.pauses, 5),
        crashes=count(given.crashes, 2),
        broken=given.sabotage,
    )


def _shares(peaks: dict[str, float]) -> dict[str, object]:
    return {name: f"{share:.2%}" for name, share in peaks.items()}


def _table(rows: Sequence[Mapping[str, object]]) -> None:
    lines = [list(row) for row in rows[:1]]
    lines += [[f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _print(settings: Settings, report: Report) -> None:
    watch, evidence = report.watch, report.evidence
    grants = sum(len(found) for found in evidence.grants.values())
    print(
        f"{report.took_s:.0f} s on {report.server}: {sum(evidence.jobs.values()):,} jobs, {grants:,} admitted; "
        f"{report.done['kill']} workers killed, {report.done['pause']} paused, {report.done['crash']} server crashes"
    )
    for title, counts in (("jobs", evidence.jobs), ("ends", evidence.ends)):
        print(f"{title}: " + ", ".join(f"{name} {n:,}" for name, n in counts.most_common()))
    if watch is not None and watch.rows:
        print(f"{watch.looks:,} looks, {report.verified:,} comparisons with the ledger; highest share of a limit:")
        _table([{"user": number, **_shares(peaks)} for number, peaks in enumerate(watch.peaks)])
        used, limit = watch.naive
        print(
            f"the naive pair, {settings.naive_processes} processes: {used:,} of {limit:,} tokens at the end, "
            f"{watch.naive_over:,} over its limit at the worst look"
        )
    _table(report.sums)


def main() -> int:
    """Race, report, and return the exit code."""
    settings = _settings()
    print(
        f"seed {settings.seed}: {settings.processes} processes and {settings.naive_processes} naive ones for "
        f"{settings.seconds:.0f} s; {settings.kills} kills, {settings.pauses} pauses, {settings.crashes} crashes; "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d %H:%M')}",
        flush=True,
    )
    # Without this the pool of psycopg would log every crash.
    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
    logging.getLogger("psycopg.pool").propagate = False
    report = race(settings)
    _print(settings, report)
    if report.problems:
        print(f"FAILED (seed {settings.seed}):", *report.problems[:20], sep="\n  ")
        print(f"  {len(report.problems)} problems in all")
        return 1
    print("every limit held at every look, the counters match the ledger, nothing is held any more")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
