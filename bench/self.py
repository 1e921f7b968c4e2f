"""Measures queue_trio alone, on a private server: throughput, enqueueing, CPU and commands per job, pickup latency.

    python -m bench.self [--jobs N] [--rounds N] [--json FILE]

Every round uses a fresh lane and checks that each job ran exactly once. Figures are medians over the rounds; on a noisy
machine look at the spread (min and max) before believing a difference.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from queue_trio import App
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings, Settings, WorkerSettings
from queue_trio.embedded import open_embedded_redis
from queue_trio.runtime.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.client import QueueClient

LATENCY_SAMPLES = 300
IDLE_S = 5.0


class Bench:
    """One app with one no-op task, and the figures collected so far, by name."""

    def __init__(self, url: str, jobs: int) -> None:
        self.jobs = jobs
        self.figures: dict[str, list[float]] = {}
        self.ran: Counter[int] = Counter()
        self.on_run: Callable[[], None] = lambda: None
        settings = Settings(redis=RedisSettings(url=SecretStr(url)), worker=WorkerSettings(concurrency=32))
        self.app = App("bench", settings=settings)
        self.noop = self.app.task(name="noop")(self._noop)
        self.numbered = self.app.task(name="numbered")(self._numbered)

    async def _noop(self) -> None:
        self.on_run()

    async def _numbered(self, number: int) -> None:
        self.ran[number] += 1
        self.on_run()

    def note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    async def round(self, client: QueueClient) -> None:
        await self._enqueue_one_by_one(client)
        await self._enqueue_concurrently(client)
        await self._run_all(client, expected=2 * self._few)
        await self._enqueue_in_bulk(client)
        await self._run_all(client, expected=self.jobs, numbered=True)

    @property
    def _few(self) -> int:
        return max(self.jobs // 10, 320)

    async def _enqueue_one_by_one(self, client: QueueClient) -> None:
        began = time.perf_counter()
        for _ in range(self._few):
            await client.enqueue(self.noop.job())
        self.note("enqueue, one by one (jobs/s)", self._few / (time.perf_counter() - began))

    async def _enqueue_concurrently(self, client: QueueClient) -> None:
        async def some(count: int) -> None:
            for _ in range(count):
                await client.enqueue(self.noop.job())

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for part in range(32):
                nursery.start_soon(some, self._few // 32 + (part < self._few % 32))
        self.note("enqueue, 32 tasks (jobs/s)", self._few / (time.perf_counter() - began))

    async def _enqueue_in_bulk(self, client: QueueClient) -> None:
        before = await self._memory(client)
        began = time.perf_counter()
        await client.enqueue_many([self.numbered.job(number) for number in range(self.jobs)])
        self.note("enqueue, in bulk (jobs/s)", self.jobs / (time.perf_counter() - began))
        self.note("Redis memory per queued job (bytes)", (await self._memory(client) - before) / self.jobs)

    async def _run_all(self, client: QueueClient, *, expected: int, numbered: bool = False) -> None:
        worker = Worker(self.app)
        left = expected
        self.ran.clear()

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                worker.drain()

        self.on_run = count
        trips = await self._round_trips(client)
        began, cpu = time.perf_counter(), time.process_time()
        await worker.run()
        elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
        if numbered:
            self.note("run (jobs/s)", expected / elapsed)
            self.note("CPU per job (µs)", cpu / expected * 1e6)
            self.note("round trips per job", (await self._round_trips(client) - trips) / expected)
            wrong = [number for number in range(expected) if self.ran[number] != 1]
            if wrong:
                raise SystemExit(f"{len(wrong)} jobs did not run exactly once, such as number {wrong[0]}")
        report = await client.store.audit(Lane())
        if not report.ok:
            raise SystemExit(f"the audit failed after a round: {report}")

    async def idle(self, client: QueueClient) -> None:
        """Pickup latency on an idle queue, then what a worker costs that has nothing to do."""
        worker = Worker(self.app)
        started = 0.0
        ran = trio.Event()

        def note_start() -> None:
            nonlocal started
            started = time.perf_counter()
            ran.set()

        self.on_run = note_start
        samples: list[float] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            for _ in range(LATENCY_SAMPLES):
                ran = trio.Event()
                # Long enough for the fetcher to be blocked again: the case to measure is an idle worker.
                await trio.sleep(0.005)
                began = time.perf_counter()
                await client.enqueue(self.noop.job())
                await ran.wait()
                samples.append((started - began) * 1000)
            trips, cpu = await self._round_trips(client), time.process_time()
            await trio.sleep(IDLE_S)
            self.note("idle worker, CPU (% of a core)", (time.process_time() - cpu) / IDLE_S * 100)
            self.note("idle worker (round trips/s)", (await self._round_trips(client) - trips) / IDLE_S)
            worker.drain()
        cuts = statistics.quantiles(samples, n=100)
        self.note("pickup latency, p50 (ms)", cuts[49])
        self.note("pickup latency, p99 (ms)", cuts[98])

    async def _round_trips(self, client: QueueClient) -> int:
        """Commands that came over the wire. Redis also counts those inside scripts, which cost no round trip."""
        stats = await self._info(client, "commandstats")
        return sum(
            int(stats[f"cmdstat_{name}"].partition("calls=")[2].partition(",")[0])
            for name in ("evalsha", "eval", "blpop")
            if f"cmdstat_{name}" in stats
        )

    async def _memory(self, client: QueueClient) -> int:
        return int((await self._info(client, "memory"))["used_memory"])

    async def _info(self, client: QueueClient, section: str) -> dict[str, str]:
        assert client._redis is not None
        text = (await client._redis.ask("INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def measure(jobs: int, rounds: int, server: str | None) -> tuple[Bench, str]:
    """Run everything on a private server; the figures and the server's version."""
    async with open_embedded_redis(server=server) as redis:
        bench = Bench(redis.url, jobs)
        async with bench.app.client() as client:
            await client.connect()
            for number in range(rounds):
                sys.stderr.write(f"round {number + 1} of {rounds}\n")
                await bench.round(client)
            await bench.idle(client)
        return bench, str(redis.binary.version)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure queue_trio on this machine.")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs per round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--server", help="redis-server or valkey-server to use instead of the one found")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    bench, version = trio.run(measure, options.jobs, options.rounds, options.server)

    table = Table("figure", "median", "min", "max", title=f"{version}, Python {platform.python_version()}")
    for name, values in bench.figures.items():
        table.add_row(
            name, *(f"{value:,.2f}" for value in (statistics.median(values), min(values), max(values)))
        )
    Console().print(table)
    if options.json is not None:
        result = {"server": version, "jobs": options.jobs, "figures": bench.figures}
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
