"""What tracing at 1 % costs a worker: the no-op workload without and with it in turn, with a collector that answers.

    python -m bench.tracing [--rounds N] [--jobs N]

Run through `just bench-tracing`. The collector is a process of its own, as in production; it reads and counts what it
is sent, so a run whose spans went nowhere is not taken for one that was cheap.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Final

import trio
from rich.console import Console
from rich.table import Table

from bench.catalogue import OURS, WORKLOADS, Queue
from bench.driver import Driver, RunFailed, open_driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RATIO: Final = 0.01
FIGURES: Final[Mapping[str, str]] = {
    "run_per_s": "run, jobs/s",
    "cpu_us_per_job": "worker's CPU per job, µs",
    "enqueue_per_s": "enqueue in bulk, jobs/s",
}
COLLECTOR: Final = "collector"


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        print("received", flush=True)


def collect() -> None:
    """Be the collector: say on which port, then a line for each export."""
    with HTTPServer(("127.0.0.1", 0), _Collector) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


@contextmanager
def collector() -> Iterator[tuple[int, list[str]]]:
    """A collector in a process of its own: its port, and after the block what it received, a line for each export."""
    received: list[str] = []
    command = [sys.executable, "-m", "bench.tracing", COLLECTOR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), received
        finally:
            process.terminate()
            received += process.stdout.readlines()


async def measure(rounds: int, jobs: int, port: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Figures without and with tracing, round by round."""
    traced = replace(OURS, variant=f"traced {RATIO} {port}")
    async with open_driver() as driver:
        found = []
        for number in range(rounds):
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
            without = await _run(driver, OURS, jobs)
            found.append((without, await _run(driver, traced, jobs)))
        return found


async def _run(driver: Driver, queue: Queue, jobs: int) -> dict[str, float]:
    return (await driver.run(queue, WORKLOADS["noop"], jobs)).figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-tracing", description="Measure what tracing at 1 % costs.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=60_000, help="jobs per run (default %(default)s)")
    options = parser.parse_args()
    try:
        with collector() as (port, received):
            found = trio.run(measure, options.rounds, options.jobs, port)
    except RunFailed as error:
        sys.exit(f"bench-tracing: error: {error}")
    table = Table("figure", "off", f"{RATIO:.0%}", "on/off, median", "round by round")
    for name, label in FIGURES.items():
        ratios = [with_[name] / without[name] for without, with_ in found]
        table.add_row(
            label,
            *(f"{statistics.median(one[name] for one in side):,.1f}" for side in zip(*found, strict=True)),
            f"{statistics.median(ratios):.2f}",
            " ".join(f"{ratio:.2f}" for ratio in ratios),
        )
    Console().print(table)
    print(f"{len(received)} exports received")
    if not received:
        sys.exit("bench-tracing: error: no spans arrived, so this says nothing of what they cost")


if __name__ == "__main__":
    collect() if sys.argv[1:] == [COLLECTOR] else main()
