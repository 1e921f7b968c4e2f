"""Measures how queue_trio scales: with the depth of a queue, with concurrency, with processes, and with time.

    python -m bench.scale [PART ...] [--rounds N] [--jobs N] [--json FILE] [--svg FILE]

    depth        jobs/s, pickup latency and memory, with 10,000 to 1,000,000 other jobs ready or scheduled
    concurrency  jobs/s with 1 to 1,000 at once, of jobs that do nothing and of jobs that wait
    processes    jobs/s of 1, 2 and 4 worker processes together
    saturation   what claiming and settling cost Redis, and so the rate that would fill its core
    soak         ten million jobs: does anything grow? Only if asked for

A round takes every size of every part once, so that all of them meet the same moods of the machine. Nothing else should
run on it meanwhile. A failed run is told and left out, and the program then ends with 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio
from rich.console import Console

from bench.driver import RunFailed
from bench.report import number
from bench.scale.parts import JOBS, PARTS, SOAK_JOBS, soak
from bench.scale.report import Results, Run, draw, show
from bench.scale.rig import open_rig
from bench.setup import HOME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.scale.parts import Part
    from bench.scale.report import Soak
    from bench.scale.rig import Rig
    from queue_trio.server_binary import ServerBinary

RESULT: Final = HOME / "scale.json"


async def measure(
    parts: Mapping[str, Part],
    *,
    rounds: int,
    jobs: int = JOBS,
    soak_jobs: int = 0,
    server: ServerBinary | None = None,
    tell: Callable[[str], object] = lambda _what: None,
    keep: Callable[[Results], None] = lambda _results: None,
) -> Results:
    """Measure, then soak if there are jobs for it; `keep` gets what there is now and then.

    Raises ConfigError if there is no server to run.
    """
    async with open_rig(server) as rig:
        results = Results(
            began=datetime.now().astimezone().isoformat(timespec="seconds"),
            server=str(rig.server.version),
            rounds=rounds,
        )
        for round_ in range(1, rounds + 1):
            for name, part in parts.items():
                for group in part.groups:
                    for size in part.sizes:
                        what = f"round {round_} of {rounds}: {name}, {group}, {size:,}"
                        tell(what)
                        try:
                            figures = await part.measure(rig, group, size, jobs)
                        except RunFailed as error:
                            results.failures.append(f"{what}: {error}")
                        else:
                            results.runs.append(Run(name, group, size, round_, figures))
            keep(results)
        if soak_jobs:
            await _soak(rig, soak_jobs, results, tell, keep)
        results.load_after = os.getloadavg()[0]
        keep(results)
        return results


async def _soak(
    rig: Rig,
    jobs: int,
    results: Results,
    tell: Callable[[str], object],
    keep: Callable[[Results], None],
) -> None:
    def look(soaked: Soak) -> None:
        results.soak = soaked
        last = soaked.samples[-1]
        tell(
            f"soak: {last.jobs:,} of {jobs:,} jobs, {number(last.jobs / last.seconds)}/s; MiB: Redis "
            f"{last.redis_bytes / 2**20:.1f}, worker {last.worker_bytes / 2**20:.1f}, "
            f"producer {last.producer_bytes / 2**20:.1f}"
        )
        keep(results)

    tell(f"soak: {jobs:,} jobs")
    try:
        await soak(rig, jobs, look)
    except RunFailed as error:
        results.failures.append(f"soak: {error}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-scale", description="Measure how queue_trio scales.")
    names = [*PARTS, "soak"]
    parser.add_argument(
        "parts", nargs="*", metavar="PART", choices=names, help=f"{', '.join(names)}; default: all but soak"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each is measured (default %(default)s)"
    )
    parser.add_argument("--jobs", type=int, help=f"jobs per run (default {JOBS:,}, of a soak {SOAK_JOBS:,})")
    parser.add_argument(
        "--json", type=Path, default=RESULT, help="where to write the figures (default %(default)s)"
    )
    parser.add_argument("--svg", type=Path, help="also draw a chart of depth and concurrency into this file")
    options = parser.parse_args()
    if options.rounds < 1 or (options.jobs is not None and options.jobs < 1):
        parser.error("--rounds and --jobs: give a whole number from 1 on")
    return options


def main() -> int:
    options = _parse()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    names = options.parts or list(PARTS)
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    with progress.status("starting", refresh_per_second=2) as status:
        results = trio.run(
            lambda: measure(
                {name: part for name, part in PARTS.items() if name in names},
                rounds=options.rounds,
                jobs=options.jobs or JOBS,
                soak_jobs=(options.jobs or SOAK_JOBS) if "soak" in names else 0,
                tell=status.update if progress.is_terminal else progress.print,
                keep=lambda results: results.write(options.json),
            )
        )
    # A file or a pipe has no width of its own; a table that is cut off tells nothing.
    console = Console(width=None if sys.stdout.isatty() else 200)
    show(results, console)
    console.print(f"\nEvery run: {options.json}", highlight=False, soft_wrap=True)
    if options.svg is not None:
        options.svg.write_text(draw(results))
    return 1 if results.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
