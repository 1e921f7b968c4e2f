"""Measures queue_trio and its peers side by side, in turn, on one private Redis: `just bench [NAMES]`.

    python -m bench [NAMES] [--rounds N] [--jobs N] [--workloads A,B] [--quick] [--json FILE] [--svg FILE]
    python -m bench --from FILE [--svg FILE] [--markdown FILE]

A round takes every workload, and in it every queue once, ours first. A failed run is told and left out, and the program
then ends with 1. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.catalogue import (
    LATENCY_S,
    OURS,
    PEERS,
    QUICK_JOBS,
    QUICK_LATENCY_S,
    WORKLOADS,
    jobs_for,
    seconds_for,
)
from bench.chart import DRAWN, draw
from bench.driver import RunFailed, open_driver
from bench.report import markdown, show
from bench.results import Gap, Results, versions_of, write_results
from bench.setup import HOME, is_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.catalogue import Queue, Workload
    from bench.driver import Driver
    from queue_trio.server_binary import ServerBinary

RESULT = HOME / "result.json"
LATENCY_JOBS_MIN = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `jobs`: per run, None for as many as suit the queue."""

    queues: Sequence[Queue]
    workloads: Sequence[Workload]
    rounds: int
    jobs: int | None
    latency_s: float

    @property
    def seconds(self) -> float:
        """About how long it will take."""
        return self.rounds * sum(
            seconds_for(queue, workload, self.jobs, self.latency_s)
            for workload in self.workloads
            for queue in self.queues
            if workload.needs not in queue.lacks
        )


class Session:
    """A plan being carried out. `tell` is given each run before it starts: round, workload, queue, its share of all."""

    def __init__(self, plan: Plan, driver: Driver, tell: Callable[[str, float], None]) -> None:
        self._plan = plan
        self._driver = driver
        self._tell = tell
        self._began_s = time.monotonic()
        self.results = Results(
            began=datetime.now().astimezone().isoformat(timespec="seconds"),
            server=str(driver.server.version),
            rounds=plan.rounds,
            versions=versions_of(plan.queues),
            load_before=os.getloadavg()[0],
        )
        for workload in plan.workloads:
            for queue in plan.queues:
                if workload.needs is not None and workload.needs in queue.lacks:
                    self.results.gaps.append(Gap(workload.name, queue.name, queue.lacks[workload.needs]))

    async def round(self, number: int) -> None:
        """Every workload, and in it every queue once."""
        for workload in self._plan.workloads:
            for queue in self._plan.queues:
                if workload.needs in queue.lacks:
                    continue
                seconds = seconds_for(queue, workload, self._plan.jobs, self._plan.latency_s)
                self._tell(f"round {number}: {workload.name}, {queue.name}", seconds)
                try:
                    await self._run(number, workload, queue)
                except RunFailed as error:
                    self.results.gaps.append(Gap(workload.name, queue.name, str(error), number))
        self.results.seconds = time.monotonic() - self._began_s
        self.results.load_after = os.getloadavg()[0]

    async def _run(self, number: int, workload: Workload, queue: Queue) -> None:
        rate_per_s, jobs = 0.0, jobs_for(queue, workload, self._plan.jobs)
        if workload.shape == "latency":
            capacity = self.results.samples("together", "through_per_s").get(queue.name)
            if not capacity:
                raise RunFailed("its capacity is not known: `together` has failed")
            rate_per_s = workload.load * statistics.median(capacity.values())
            jobs = max(LATENCY_JOBS_MIN, round(rate_per_s * self._plan.latency_s))
        sample = await self._driver.run(queue, workload, jobs, rate_per_s=rate_per_s)
        self.results.add(number, workload.name, queue.name, sample)


async def measure(
    plan: Plan,
    *,
    server: ServerBinary | None = None,
    tell: Callable[[str, float], None] = lambda _what, _seconds: None,
    keep: Callable[[Results], None] = lambda _results: None,
) -> Results:
    """Carry out a plan; `keep` gets the results after every round. Raises ConfigError if there is no server to run."""
    async with open_driver(server) as driver:
        session = Session(plan, driver, tell)
        for number in range(1, plan.rounds + 1):
            await session.round(number)
            keep(session.results)
        return session.results


# --- the command line -----------------------------------------------------------------------------------------------


def choose_queues(names: Sequence[str]) -> list[Queue]:
    """Ours, and the peers of these names or environments; all that are installed if none. Raises ValueError."""
    known = {queue.name for queue in PEERS} | {queue.environment for queue in PEERS} | {OURS.name}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"no such queue: {', '.join(unknown)}; there are {', '.join(queue.name for queue in PEERS)}"
        )
    chosen = [queue for queue in PEERS if not names or {queue.name, queue.environment} & set(names)]
    missing = [queue for queue in chosen if queue.environment and not is_installed(queue.environment)]
    if names and missing:
        environments = sorted({queue.environment for queue in missing if queue.environment})
        raise ValueError(f"not installed as pinned: {', '.join(environments)}; run `just bench-setup`")
    return [OURS, *(queue for queue in chosen if queue not in missing)]


def choose_workloads(text: str | None) -> list[Workload]:
    """By names with commas between; all if None. Latency brings what tells the capacity. Raises ValueError."""
    names = list(WORKLOADS) if text is None else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise ValueError(f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    wanted = set(names)
    if any(WORKLOADS[name].shape == "latency" for name in names):
        wanted.add("together")
    return [workload for name, workload in WORKLOADS.items() if name in wanted]


def _parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure queue_trio and other queues side by side."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="peers to measure; default: all that are installed"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each is measured (default %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, help="jobs per run; default: 3000, or what takes one to three seconds"
    )
    parser.add_argument("--workloads", metavar="A,B", help=f"some of: {', '.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help="one round of 300 jobs: does everything work?")
    parser.add_argument(
        "--json", type=Path, default=RESULT, help="where to write the figures (default %(default)s)"
    )
    parser.add_argument("--svg", type=Path, help="also draw a chart into this file")
    parser.add_argument("--markdown", type=Path, help="also write the tables into this file")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="measure nothing, show these figures"
    )
    options = parser.parse_args()
    if options.rounds < 1 or (options.jobs is not None and options.jobs < 1):
        parser.error("--rounds and --jobs: give a whole number from 1 on")
    return parser, options


def _measure_with_progress(plan: Plan, file: Path, console: Console) -> Results:
    absent = [queue.name for queue in PEERS if queue.environment and not is_installed(queue.environment)]
    if absent:
        console.print(f"not installed as pinned: {', '.join(absent)}; `just bench-setup` does it")
    console.print(
        f"{len(plan.queues)} queues, {len(plan.workloads)} workloads, {plan.rounds} rounds: about "
        f"{plan.seconds / 60:.0f} min. Leave the machine alone meanwhile.",
        highlight=False,
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("starting", total=plan.seconds)
        under_way = 0.0

        def tell(what: str, seconds: float) -> None:
            nonlocal under_way
            progress.update(task, description=what, advance=under_way)
            under_way = seconds
            if not console.is_terminal:
                console.print(what, highlight=False)

        return trio.run(lambda: measure(plan, tell=tell, keep=lambda results: write_results(results, file)))


def main() -> int:
    parser, options = _parse()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if options.source is not None:
        results = Results.from_json(options.source.read_bytes())
    else:
        try:
            queues, workloads = choose_queues(options.names), choose_workloads(options.workloads)
        except ValueError as error:
            parser.error(str(error))
        if options.svg is not None and not DRAWN & {workload.name for workload in workloads}:
            parser.error(f"--svg: only {', '.join(sorted(DRAWN))} are drawn; measure one of them")
        jobs = options.jobs or (QUICK_JOBS if options.quick else None)
        latency_s = QUICK_LATENCY_S if options.quick else LATENCY_S
        plan = Plan(queues, workloads, 1 if options.quick else options.rounds, jobs, latency_s)
        results = _measure_with_progress(plan, options.json, Console(stderr=True))
    # A file or a pipe has no width of its own; a table that is cut off tells nothing.
    console = Console(width=None if sys.stdout.isatty() else 200)
    show(results, console)
    if options.source is None:
        console.print(f"\nEvery run: {options.json}", highlight=False, soft_wrap=True)
    if options.markdown is not None:
        options.markdown.write_text(markdown(results))
    if options.svg is not None:
        try:
            options.svg.write_text(draw(results))
        except ValueError as error:
            parser.error(f"--svg: {error}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
