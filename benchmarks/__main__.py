"""`make bench`, or `python -m benchmarks --help`."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import histories
from benchmarks.bench import Bench, open_bench
from benchmarks.bulk import bulk
from benchmarks.growth import growth
from benchmarks.operations import operations
from benchmarks.puts import puts
from benchmarks.quota_leases import quota_leases
from benchmarks.quota_pairs import quota_pairs
from benchmarks.quota_rates import quota_rates
from benchmarks.race import race
from benchmarks.reads import reads
from benchmarks.space import space
from benchmarks.startup import startup
from benchmarks.streams import streams
from benchmarks.table import Row, render
from benchmarks.unchanged import unchanged
from benchmarks.watching import watching

#: The parts of the table by name: a title, and the measurement.
SECTIONS: dict[str, tuple[str, Callable[[Bench], list[Row]]]] = {
    "space": ("Space", space),
    "puts": ("Durable puts", puts),
    "unchanged": ("Unchanged content", unchanged),
    "reads": ("Reads", reads),
    "race": ("One file, 32 processes", race),
    "quota-pairs": ("Quotas in the database, 8 processes", quota_pairs),
    "quota-leases": ("Quotas by leases", quota_leases),
    "quota-rates": ("Requests alone", quota_rates),
    "streams": ("Streams against a budget, 8 tenants, 128 streams each, 3 processes", streams),
    "operations": ("Single operations", operations),
    "growth": ("A tenant that grows", growth),
    "startup": ("Start-up", startup),
    "bulk": ("Bulk", bulk),
    "watching": ("The watcher", watching),
}

_RATIO = "ratio: ours / peer; of times whose target is ≥, peer / ours"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure us and our peers in one interleaved run, as ratios.",
        epilog="Exit code: 0, or 1 when a target is missed. ATLAS_CORPUS: a folder of edit histories (*.tar.xz).",
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="fewer operations: for a look, not for a record")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file, too")
    parser.add_argument("--folder", type=Path, help="where the data goes; default: the system's temporary folder")
    return parser.parse_args()


def _machine(bench: Bench) -> str:
    (server,) = bench.row("SHOW server_version")
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {load}; "
        f"Python {platform.python_version()}, PostgreSQL {server}"
    )


def main() -> int:
    """Run the chosen sections and print the table."""
    arguments = _arguments()
    corpus = histories.load()
    began = time.monotonic()
    done: list[tuple[str, list[Row]]] = []
    with open_bench(corpus, quick=arguments.quick, folder=arguments.folder) as bench:
        about = [_machine(bench), f"{corpus.origin} edit histories: {histories.describe(corpus.histories)}"]
        print(*about, sep="\n")
        for name in arguments.only or SECTIONS:
            section_began = time.monotonic()
            title, run = SECTIONS[name]
            done.append((title, run(bench)))
            print(f"{name}: {time.monotonic() - section_began:.0f} s", file=sys.stderr)
    rows = [row for _, section in done for row in section]
    print("", render(done), "", _RATIO, sep="\n")
    verdicts = [row.verdict for row in rows]
    print(
        f"{verdicts.count('PASS')} passed, {verdicts.count('FAIL')} failed, {verdicts.count('MISSING')} missing; "
        f"{time.monotonic() - began:.0f} s"
    )
    if arguments.json is not None:
        sections = [{"section": title, "rows": [row.to_json() for row in section]} for title, section in done]
        report = {"about": about, "quick": arguments.quick, "sections": sections}
        arguments.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int("FAIL" in verdicts)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
