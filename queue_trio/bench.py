"""Measures queue_trio on this machine, on a private server: what `queue-trio admin bench` and bench/self.py share.

    measure
    └── open_bench      a server, a client, and an app with two tasks that do nothing
        ├── round       enqueue in three ways, run everything, check that each job ran exactly once
        ├── pickup      how soon an idle worker starts a job
        └── idle        what a worker costs that has nothing to do

The worker runs in this process, next to the client: its figures are those of one worker process. No configured Redis is
ever touched.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from pydantic import SecretStr

from queue_trio.app import App
from queue_trio.core.job import Lane
from queue_trio.core.settings import RedisSettings, Settings, WorkerSettings
from queue_trio.embedded import open_embedded_redis
from queue_trio.errors import InternalError
from queue_trio.redis.client import Client
from queue_trio.runtime.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from queue_trio.client import QueueClient
    from queue_trio.server_binary import ServerBinary

LABELS: Final[Mapping[str, str]] = {
    "run_jobs_per_s": "run (jobs/s, one worker)",
    "run_cpu_us_per_job": "CPU per job (µs)",
    "redis_cpu_us_per_job": "Redis's CPU per job (µs)",
    "round_trips_per_job": "round trips per job",
    "enqueue_one_by_one_per_s": "enqueue, one by one (jobs/s)",
    "enqueue_concurrent_per_s": "enqueue, 32 tasks (jobs/s)",
    "enqueue_bulk_per_s": "enqueue, in bulk (jobs/s)",
    "memory_bytes_per_job": "Redis memory per queued job (bytes)",
    "pickup_p50_ms": "pickup latency, p50 (ms)",
    "pickup_p99_ms": "pickup latency, p99 (ms)",
    "idle_cpu_percent": "idle worker, CPU (% of a core)",
    "idle_round_trips_per_s": "idle worker (round trips/s)",
}
"""Every figure, and what people call it."""

ENQUEUERS: Final = 32
FEW_MIN: Final = 32
ROUNDS_MAX: Final = 5
WARM_UP_JOBS: Final = 500
JOBS_MIN: Final = 200
JOBS_MAX: Final = 20_000
PICKUPS: Final = 200
PICKUPS_MIN: Final = 10
PAUSE_S: Final = 0.005
"""Before each pickup: long enough for the fetcher to be blocked again. The case to measure is an idle worker."""
STUCK_S: Final = 60.0
"""A round that does not end within so long has lost a job."""


class Bench:
    """One app with two no-op tasks, and the figures collected so far, by name. Made by `open_bench`."""

    def __init__(self, app: App, client: QueueClient, redis: Client, server: ServerBinary) -> None:
        self.server = server
        self.figures: dict[str, list[float]] = {}
        self.jobs = 0
        self._app = app
        self._client = client
        self._redis = redis
        self._ran: Counter[int] = Counter()
        self._on_run: Callable[[], None] = lambda: None
        self._noop = app.task(name="noop")(self._run_noop)
        self._numbered = app.task(name="numbered")(self._run_numbered)

    async def _run_noop(self) -> None:
        self._on_run()

    async def _run_numbered(self, number: int) -> None:
        self._ran[number] += 1
        self._on_run()

    def note(self, name: str, value: float) -> None:
        """One more sample of a figure."""
        self.figures.setdefault(name, []).append(value)

    # --- a round ---------------------------------------------------------------------------------------------------

    async def round(self, jobs: int) -> None:
        """Enqueue and run `jobs` in bulk, and a few more in the other ways. Raises InternalError if any went wrong."""
        few = max(jobs // 10, FEW_MIN)
        await self._enqueue_one_by_one(few)
        await self._enqueue_concurrently(few)
        await self._run_all(2 * few)
        busy_s = await self._redis_cpu_s()
        await self._enqueue_in_bulk(jobs)
        await self._run_all(jobs, numbered=True)
        self.note("redis_cpu_us_per_job", (await self._redis_cpu_s() - busy_s) / jobs * 1e6)
        self.jobs += jobs + 2 * few

    async def _enqueue_one_by_one(self, jobs: int) -> None:
        began = trio.current_time()
        for _ in range(jobs):
            await self._client.enqueue(self._noop.job())
        self.note("enqueue_one_by_one_per_s", jobs / (trio.current_time() - began))

    async def _enqueue_concurrently(self, jobs: int) -> None:
        async def some(count: int) -> None:
            for _ in range(count):
                await self._client.enqueue(self._noop.job())

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for part in range(ENQUEUERS):
                nursery.start_soon(some, jobs // ENQUEUERS + (part < jobs % ENQUEUERS))
        self.note("enqueue_concurrent_per_s", jobs / (trio.current_time() - began))

    async def _enqueue_in_bulk(self, jobs: int) -> None:
        before = await self._memory_bytes()
        began = trio.current_time()
        await self._client.enqueue_many([self._numbered.job(number) for number in range(jobs)])
        self.note("enqueue_bulk_per_s", jobs / (trio.current_time() - began))
        self.note("memory_bytes_per_job", (await self._memory_bytes() - before) / jobs)

    async def _run_all(self, jobs: int, *, numbered: bool = False) -> None:
        worker = Worker(self._app)
        left = jobs
        self._ran.clear()

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                worker.drain()

        self._on_run = count
        trips = await self._round_trips()
        began, cpu_s = trio.current_time(), time.process_time()
        with trio.move_on_after(STUCK_S):
            await worker.run()
        elapsed_s, cpu_s = trio.current_time() - began, time.process_time() - cpu_s
        if numbered:
            self.note("run_jobs_per_s", jobs / elapsed_s)
            self.note("run_cpu_us_per_job", cpu_s / jobs * 1e6)
            self.note("round_trips_per_job", (await self._round_trips() - trips) / jobs)
        await self._check(jobs, left, numbered=numbered)

    async def _check(self, jobs: int, left: int, *, numbered: bool) -> None:
        wrong = [number for number in range(jobs) if self._ran[number] != 1] if numbered else []
        if wrong:
            raise InternalError(
                f"{len(wrong)} of {jobs} jobs did not run exactly once, such as number {wrong[0]}"
            )
        if left:
            raise InternalError(f"{jobs - left} jobs ran, of {jobs}")
        report = await self._client.store.audit(Lane())
        if not report.ok:
            raise InternalError(f"the audit failed after a round: {report}")

    # --- an idle worker --------------------------------------------------------------------------------------------

    async def pickup(self, deadline: float) -> None:
        """How soon an idle worker starts a job: PICKUPS samples, or fewer if the deadline (Trio's clock) comes."""
        began = trio.current_time()
        samples_ms: list[float] = []
        ran = trio.Event()

        def note_start() -> None:
            samples_ms.append((trio.current_time() - began) * 1000)
            ran.set()

        self._on_run = note_start
        worker = Worker(self._app)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            for number in range(PICKUPS):
                if number >= PICKUPS_MIN and trio.current_time() > deadline:
                    break
                ran = trio.Event()
                await trio.sleep(PAUSE_S)
                began = trio.current_time()
                await self._client.enqueue(self._noop.job())
                with trio.fail_after(STUCK_S):
                    await ran.wait()
            worker.drain()
        self.jobs += len(samples_ms)
        cuts = statistics.quantiles(samples_ms, n=100, method="inclusive")
        self.note("pickup_p50_ms", cuts[49])
        self.note("pickup_p99_ms", cuts[98])

    async def idle(self, seconds: float) -> None:
        """What a worker costs that has nothing to do."""
        worker = Worker(self._app)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            trips, cpu_s = await self._round_trips(), time.process_time()
            await trio.sleep(seconds)
            self.note("idle_cpu_percent", (time.process_time() - cpu_s) / seconds * 100)
            self.note("idle_round_trips_per_s", (await self._round_trips() - trips) / seconds)
            worker.drain()

    # --- what Redis says -------------------------------------------------------------------------------------------

    async def _round_trips(self) -> int:
        """Commands that came over the wire. Redis also counts those inside scripts, which cost no round trip."""
        stats = await self._info("commandstats")
        return sum(
            int(stats[f"cmdstat_{name}"].partition("calls=")[2].partition(",")[0])
            for name in ("evalsha", "eval", "blpop")
            if f"cmdstat_{name}" in stats
        )

    async def _memory_bytes(self) -> int:
        return int((await self._info("memory"))["used_memory"])

    async def _redis_cpu_s(self) -> float:
        cpu = await self._info("cpu")
        return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])

    async def _info(self, section: str) -> dict[str, str]:
        text = (await self._redis.ask("INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


@asynccontextmanager
async def open_bench(*, concurrency: int = 32, server: ServerBinary | None = None) -> AsyncIterator[Bench]:
    """A bench on a server of its own, gone after the block. Raises ConfigError if there is no server to run."""
    async with open_embedded_redis(server=server) as redis:
        settings = Settings(
            redis=RedisSettings(url=SecretStr(redis.url)), worker=WorkerSettings(concurrency=concurrency)
        )
        app = App("bench", settings=settings)
        info = Client.from_settings(settings.redis, name="queue-trio:bench")
        try:
            async with app.client() as client:
                await client.connect()
                yield Bench(app, client, info, redis.binary)
        finally:
            with trio.CancelScope(shield=True):  # bounded by itself
                await info.aclose()


@dataclass(frozen=True, slots=True)
class Results:
    """`figures`: every sample of each round, by the names in LABELS. `jobs`: how many ran, each exactly once."""

    server: str
    python: str
    cores: int
    jobs: int
    rounds: int
    seconds: float
    figures: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The middle one of a figure's samples."""
        return statistics.median(self.figures[name])


async def measure(
    *, seconds: float, jobs: int | None, concurrency: int, tell: Callable[[str], None]
) -> Results:
    """Rounds of `jobs` jobs, by default as many as fit, until `seconds` are about to be over; at least one round.

    `tell` is given a line now and then. Raises InternalError if a job did not run exactly once.
    """
    tell("starting a private server")
    async with open_bench(concurrency=concurrency) as bench:
        began = trio.current_time()
        warm_up = min(WARM_UP_JOBS, jobs or WARM_UP_JOBS)
        await bench.round(warm_up)
        round_s = trio.current_time() - began
        if jobs is None:
            # A third of the time for each of three rounds, less a fifth of it all for the pickups.
            jobs = max(JOBS_MIN, min(JOBS_MAX, round(seconds * 0.8 / 3 / (round_s / warm_up))))
        bench.figures.clear()
        bench.jobs = rounds = 0
        end = began + seconds
        while not rounds or (rounds < ROUNDS_MAX and trio.current_time() + round_s < end - seconds / 5):
            rounds += 1
            tell(f"round {rounds}: {jobs} jobs")
            round_began = trio.current_time()
            await bench.round(jobs)
            round_s = trio.current_time() - round_began
        tell("measuring how soon an idle worker starts a job")
        await bench.pickup(end)
        return Results(
            server=str(bench.server.version),
            python=platform.python_version(),
            cores=os.cpu_count() or 1,
            jobs=bench.jobs,
            rounds=rounds,
            seconds=trio.current_time() - began,
            figures=bench.figures,
        )
