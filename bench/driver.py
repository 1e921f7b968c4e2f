"""Runs one queue through one workload: a flushed Redis, an enqueuer process and a worker process, and what they say.

It knows no queue: adapters are programs (bench/peers), started with the Python of their own environment. Every process
it starts is gone when a run is over, and every wait has an end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from pydantic import SecretStr

from bench.catalogue import ENQUEUERS, THREADS
from bench.figures import fault_in, latency_figures, run_figures
from bench.peers.harness import Order, level
from bench.setup import ROOT, python_of
from queue_trio.core.settings import RedisSettings
from queue_trio.embedded import open_embedded_redis
from queue_trio.redis.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.catalogue import Queue, Workload
    from queue_trio.server_binary import ServerBinary

TIMEOUT_S: Final = 60.0
"""Within so long the jobs of a run have run, or it has failed."""
GRACE_S: Final = 15.0
"""For the process around them: to start, and to write down what it knows."""
SETTLE_S: Final = 0.5
"""Until a worker that says it is ready really waits for jobs: some can say so only before they connect."""
WORDS_OF_COMPLAINT_MAX: Final = 300


class RunFailed(Exception):
    """A run that gave no valid sample. Says why in one line."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a process took: processor seconds while measured, and its peak of memory in bytes."""

    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One valid run. `figures` by the names in catalogue.LABELS; `uses` by process: worker, enqueuer, redis."""

    jobs: int
    figures: dict[str, float]
    uses: dict[str, Use]


class Process:
    """An adapter in one role. Made by `Driver`; its lines are read one by one."""

    def __init__(self, process: trio.Process, complaints: Path, role: str) -> None:
        self._process = process
        self._complaints = complaints
        self._role = role
        self._text = b""

    async def hear(self, what: str, *, within_s: float) -> dict[str, Any]:
        """The next line, which must be that one. Raises RunFailed."""
        with trio.move_on_after(within_s):
            line = await self._line()
            said: dict[str, Any] = json.loads(line) if line else {}
            if said.get("said") != what:
                with trio.move_on_after(GRACE_S):
                    await self._process.wait()
                raise RunFailed(f"the {self._role} ended before it was {what}: {self._last_words()}")
            return said
        raise RunFailed(f"the {self._role} was not {what} within {within_s:.0f} s: {self._last_words()}")

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._text:
            more = await self._process.stdout.receive_some(65536)
            if not more:
                return b""
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = self._complaints.read_text(errors="replace").strip().splitlines()
        return lines[-1][:WORDS_OF_COMPLAINT_MAX] if lines else "it said nothing"


class Driver:
    """One private Redis, and the runs on it, one at a time. Made by `open_driver`."""

    def __init__(self, url: str, redis: Client, server: ServerBinary, folder: Path) -> None:
        self.server = server
        self.url = url
        self.redis = redis
        self.folder = folder

    async def run(self, queue: Queue, workload: Workload, jobs: int, *, rate_per_s: float = 0.0) -> Sample:
        """Enqueue and run `jobs` jobs, each exactly once. Raises RunFailed with the reason if it did not go so."""
        order = Order(
            url=self.url,
            file="",
            variant=queue.variant,
            jobs=jobs,
            concurrency=workload.concurrency,
            threads=THREADS,
            timeout_s=TIMEOUT_S,
            way=workload.way,
            enqueuers=ENQUEUERS,
            payload_bytes=workload.payload_bytes,
            pause_s=workload.pause_s,
            sync=workload.sync,
            priorities=workload.priorities,
            rate_per_s=rate_per_s,
        )
        await self.redis.ask("FLUSHALL", "SYNC")
        run = self._preloaded if workload.shape == "preloaded" else self._live
        sample = await run(queue, order)
        return replace(
            sample,
            figures={name: sample.figures[name] for name in workload.figures if name in sample.figures},
        )

    async def _preloaded(self, queue: Queue, order: Order) -> Sample:
        idle_bytes, redis_cpu_s = await self._memory_bytes(), await self._redis_cpu_s()
        async with self._process(queue, "enqueue", order) as enqueuer:
            await enqueuer.hear("ready", within_s=GRACE_S)
            enqueued = await enqueuer.hear("done", within_s=TIMEOUT_S)
        queued_bytes = await self._memory_bytes()
        async with self._process(queue, "work", order) as worker:
            ready = await worker.hear("ready", within_s=GRACE_S)
            done = await worker.hear("done", within_s=TIMEOUT_S + GRACE_S)
        started = self._started(order)
        figures = run_figures(
            order,
            ready_s=ready["at_s"],
            last_s=done["at_s"],
            cpu_s=done["cpu_s"],
            enqueue_s=enqueued["seconds"],
            levels=[level(number) for number, _ in started],
        )
        figures["redis_bytes_per_job"] = (queued_bytes - idle_bytes) / order.jobs
        return Sample(order.jobs, figures, await self._uses(redis_cpu_s, done, enqueued))

    async def _live(self, queue: Queue, order: Order) -> Sample:
        redis_cpu_s = await self._redis_cpu_s()
        async with self._process(queue, "work", order) as worker:
            await worker.hear("ready", within_s=GRACE_S)
            await trio.sleep(SETTLE_S)
            async with self._process(queue, "enqueue", order) as enqueuer:
                ready = await enqueuer.hear("ready", within_s=GRACE_S)
                enqueued = await enqueuer.hear("done", within_s=TIMEOUT_S)
            done = await worker.hear("done", within_s=TIMEOUT_S + GRACE_S)
        started = self._started(order)
        figures = {"through_per_s": order.jobs / (done["at_s"] - ready["at_s"])}
        if order.way == "planned":
            due_s = json.loads(self._file("enqueue").read_text())
            figures |= {**latency_figures(due_s, started), "sent_per_s": order.rate_per_s}
        return Sample(order.jobs, figures, await self._uses(redis_cpu_s, done, enqueued))

    # --- processes -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _process(self, queue: Queue, role: str, order: Order) -> AsyncIterator[Process]:
        """Start an adapter; after the block it has ended."""
        python = sys.executable if queue.environment is None else str(python_of(queue.environment))
        words = json.dumps(asdict(replace(order, file=str(self._file(role)))))
        complaints = self.folder / f"{role}.err"
        with complaints.open("wb") as stderr:
            # lowlevel: a nursery would cancel what is in the block when the process fails, and so hide why.
            process = await trio.lowlevel.open_process(
                [python, "-m", "bench.peers", queue.program, role, words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env=_environment(),
            )
        try:
            yield Process(process, complaints, {"work": "worker", "enqueue": "enqueuer"}[role])
            with trio.move_on_after(GRACE_S):
                await process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True):  # bounded: it is dead
                await process.wait()
                if process.stdout is not None:
                    await process.stdout.aclose()

    def _file(self, role: str) -> Path:
        return self.folder / f"{role}.json"

    def _started(self, order: Order) -> list[tuple[int, float]]:
        """Number and start of each job that ran, in the order of their starts. Raises RunFailed."""
        entries = [(number, at_s) for number, at_s in json.loads(self._file("work").read_text())]
        if fault := fault_in([number for number, _ in entries], order.jobs):
            raise RunFailed(fault)
        return sorted(entries, key=lambda entry: entry[1])

    # --- what Redis says -------------------------------------------------------------------------------------------

    async def _uses(
        self, redis_cpu_s: float, done: dict[str, Any], enqueued: dict[str, Any]
    ) -> dict[str, Use]:
        info = await self.info("memory")
        return {
            "worker": Use(done["cpu_s"], done["peak_bytes"]),
            "enqueuer": Use(enqueued["cpu_s"], enqueued["peak_bytes"]),
            "redis": Use(await self._redis_cpu_s() - redis_cpu_s, int(info["used_memory_rss"])),
        }

    async def _memory_bytes(self) -> int:
        return int((await self.info("memory"))["used_memory"])

    async def _redis_cpu_s(self) -> float:
        cpu = await self.info("cpu")
        return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])

    async def info(self, section: str) -> dict[str, str]:
        """What the server says of itself."""
        text = (await self.redis.ask("INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _environment() -> dict[str, str]:
    """Ours, without what would lead a foreign Python to our packages, or any of them to somebody's settings."""
    dropped = ("PYTHON", "VIRTUAL_ENV", "QUEUE_TRIO_", "CELERY", "FORKED_BY_MULTIPROCESSING")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


@asynccontextmanager
async def open_driver(server: ServerBinary | None = None) -> AsyncIterator[Driver]:
    """A driver with a server of its own, on a loopback port, gone after the block. Raises ConfigError without a server.

    The server keeps nothing on disk: queues are measured, not disks.
    """
    settings = {"appendonly": "no"}
    with tempfile.TemporaryDirectory(prefix="qt-bench-") as folder:
        async with open_embedded_redis(server=server, port=True, settings=settings) as redis:
            client = Client.from_settings(RedisSettings(url=SecretStr(redis.url)), name="queue-trio:bench")
            try:
                yield Driver(redis.url, client, redis.binary, Path(folder))
            finally:
                with trio.CancelScope(shield=True):  # bounded by itself
                    await client.aclose()
