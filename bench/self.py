"""Measures queue_trio alone, on a private server: throughput, enqueueing, CPU and commands per job, pickup latency.

    python -m bench.self [--jobs N] [--rounds N] [--json FILE]

Every round checks that each job ran exactly once. Figures are medians over the rounds; on a noisy machine look at the
spread (min and max) before believing a difference. What is measured, and how, is in queue_trio/bench.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import statistics
import sys
from pathlib import Path

import structlog
import trio
from rich.console import Console
from rich.table import Table

from queue_trio.bench import LABELS, Bench, open_bench
from queue_trio.server_binary import find_server

IDLE_S = 5.0


async def measure(jobs: int, rounds: int, server: Path | None) -> Bench:
    """Run everything on a private server."""
    async with open_bench(server=None if server is None else find_server(server)) as bench:
        for number in range(rounds):
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
            await bench.round(jobs)
        await bench.pickup(math.inf)
        await bench.idle(IDLE_S)
        return bench


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure queue_trio on this machine.")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs per round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument(
        "--server", type=Path, help="redis-server or valkey-server to use instead of the one found"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    bench = trio.run(measure, options.jobs, options.rounds, options.server)

    version = str(bench.server.version)
    table = Table("figure", "median", "min", "max", title=f"{version}, Python {platform.python_version()}")
    figures = {label: bench.figures[name] for name, label in LABELS.items()}
    for label, values in figures.items():
        table.add_row(
            label, *(f"{value:,.2f}" for value in (statistics.median(values), min(values), max(values)))
        )
    Console().print(table)
    if options.json is not None:
        result = {"server": version, "jobs": options.jobs, "figures": figures}
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
