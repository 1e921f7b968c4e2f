"""What bench.scale stands on: a private Redis, a queue of numbered jobs, processes at work on it, and the judgement.

    async with rig.queue() as queue, rig.shift(queue, order) as shift:
        await shift.until(...)          # here the workers work
    shift.figures()                     # and here each job is known to have run exactly once, or to be queued still

It knows nothing of what is measured with them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from array import array
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from bench.driver import Driver, Process, RunFailed, open_driver
from bench.scale.crew import LANE, TASK, Order, declare
from bench.setup import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from queue_trio.app import Task
    from queue_trio.client import QueueClient
    from queue_trio.core.store import LaneStats
    from queue_trio.server_binary import ServerBinary

CHUNK: Final = 5000
"""Jobs made and enqueued at a time."""
POLL_S: Final = 0.02
STALL_S: Final = 60.0
"""Jobs that do nothing, and none ends within so long: something is lost."""
PATIENCE_S: Final = 60.0
"""For a process to start, to drain, and to write down what it knows."""


def ledger_fault(ledgers: Sequence[bytes], sent: int, queued: int) -> str | None:
    """What is wrong unless each of `sent` jobs ran once, in one of the processes, but for `queued` that did not yet.

    A ledger tells how often each number ran, one byte each.
    """
    runs = bytes(min(255, sum(counts)) for counts in zip(*ledgers, strict=True))
    known, foreign = runs[:sent], runs[sent:]
    idle, once = known.count(0), known.count(1)
    faults = {
        "neither ran nor are queued": idle - queued,
        "ran and are queued all the same": queued - idle,
        "ran more than once": sent - idle - once,
        "ran and were never enqueued": len(foreign) - foreign.count(0),
    }
    return "; ".join(f"{count} of {sent} jobs {what}" for what, count in faults.items() if count > 0) or None


class Usage(NamedTuple):
    """Of Redis. `scripts_s`: what passed in scripts, most of the rest goes into requests and replies."""

    cpu_s: float = 0.0
    scripts_s: float = 0.0
    memory_bytes: int = 0
    keys: int = 0


def _number_after(name: str, text: str) -> int:
    found = re.search(rf"{name}(\d+)", text)
    return int(found[1]) if found else 0


class Queue:
    """An empty queue on an empty server, and the numbered jobs sent to it. Made by `Rig.queue`."""

    def __init__(self, client: QueueClient, task: Task[..., Any]) -> None:
        self.sent = 0
        self._client = client
        self._task = task

    async def send(self, count: int, **options: Any) -> None:
        """So many more, with the options of `Job.options`."""
        for left in range(count, 0, -CHUNK):
            jobs = [self._task.job(number) for number in range(self.sent, self.sent + min(left, CHUNK))]
            await self._client.enqueue_many([job.options(**options) for job in jobs] if options else jobs)
            self.sent += len(jobs)

    async def stats(self) -> LaneStats:
        return await self._client.store.stats(LANE)

    async def check(self, ledgers: Sequence[bytes]) -> None:
        """Raises RunFailed unless each job ran exactly once or is queued, and the audit finds the same."""
        stats = await self.stats()
        if fault := ledger_fault(ledgers, self.sent, stats.ready_total + stats.scheduled):
            raise RunFailed(fault)
        report = await self._client.store.audit(LANE)
        if not report.ok or stats.leased or stats.dead:
            raise RunFailed(f"the audit failed: {report}")


class Hand(Process):
    """One of our processes. It begins when it is told to, and its input ends when it is to end."""

    def __init__(self, process: trio.Process, folder: Path, name: str) -> None:
        super().__init__(process, folder / f"{name}.err", name)
        self.pid = process.pid
        self._ledger = folder / f"{name}.ledger"

    async def go(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"\n")

    async def stop(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    def check(self) -> None:
        """Raises RunFailed if it has failed."""
        if self._process.poll():
            raise RunFailed(f"the {self._role} ended: {self._last_words()}")

    def ledger(self, numbers: int) -> tuple[bytes, array[float]]:
        """How often each job ran, and when it started."""
        text = self._ledger.read_bytes()
        return text[:numbers], array("d", text[numbers:])


class Shift:
    """Processes at work on a queue, and after it what they and Redis say of it. Made by `Rig.shift`."""

    def __init__(self, rig: Rig, queue: Queue, hands: Sequence[Hand], order: Order) -> None:
        self.hands = hands
        self.began_s = 0.0
        self.cpu_s = 0.0
        self.runs: list[bytes] = []
        self.at_s: list[array[float]] = []
        self._rig = rig
        self._queue = queue
        self._order = order
        self._before = Usage()
        self._redis: dict[str, float] = {}

    async def begin(self) -> None:
        """Returns when all have started."""
        self._before = await self._rig.usage()
        for hand in self.hands:
            await hand.go()
        self.began_s = min([(await hand.hear("started", within_s=PATIENCE_S))["at_s"] for hand in self.hands])

    async def until(self, condition: Callable[[LaneStats], bool]) -> LaneStats:
        """Look at the queue until it is so. Raises RunFailed if it comes to a standstill before."""
        most, since_s = -1, time.monotonic()
        while not condition(stats := await self._queue.stats()):
            for hand in self.hands:
                hand.check()
            if stats.completed > most:
                most, since_s = stats.completed, time.monotonic()
            elif time.monotonic() - since_s > STALL_S:
                raise RunFailed(f"after {most} of {self._queue.sent} jobs none ended within {STALL_S:.0f} s")
            await trio.sleep(POLL_S)
        return stats

    async def run(self) -> None:
        """Until as many jobs have ended as the order marks; then look at what Redis has used."""
        ended = (await self.until(lambda stats: stats.completed >= self._order.mark)).completed
        used = await self._rig.usage()
        self._redis = {
            "redis_cpu_us_per_job": (used.cpu_s - self._before.cpu_s) / ended * 1e6,
            "script_us_per_job": (used.scripts_s - self._before.scripts_s) / ended * 1e6,
        }

    async def end(self) -> None:
        """Returns when all have drained."""
        for hand in self.hands:
            await hand.stop()
        for hand in self.hands:
            self.cpu_s += (await hand.hear("done", within_s=PATIENCE_S))["cpu_s"]
            runs, at_s = hand.ledger(self._order.numbers)
            self.runs.append(runs)
            self.at_s.append(at_s)

    def figures(self) -> dict[str, float]:
        """Of the first jobs, as many as the order marks; a job lasts as long as it was ordered to."""
        mark, redis_us = self._order.mark, self._redis["redis_cpu_us_per_job"]
        noted_s = sorted(at_s for ledger in self.at_s for at_s in ledger if at_s)
        run_per_s = mark / (noted_s[mark - 1] + self._order.pause_s - self.began_s)
        return {
            "run_per_s": run_per_s,
            "cpu_us_per_job": self.cpu_s / mark * 1e6,
            "redis_percent": redis_us * run_per_s / 1e4,
            "full_core_per_s": 1e6 / redis_us,
            **self._redis,
        }


class Rig(Driver):
    """A driver whose runs are made of a queue and of our own processes. Made by `open_rig`."""

    async def usage(self) -> Usage:
        """What Redis has used so far."""
        told = await self.info("all")
        script, keys = (told.get(name, "") for name in ("cmdstat_evalsha", "db0"))
        return Usage(
            cpu_s=float(told["used_cpu_sys"]) + float(told["used_cpu_user"]),
            scripts_s=_number_after("usec=", script) / 1e6,
            memory_bytes=int(told["used_memory"]),
            keys=_number_after("keys=", keys),
        )

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[Queue]:
        """A queue on the server, from which all else is gone."""
        await self.redis.ask("FLUSHALL", "SYNC")
        app, _ = declare(Order(self.url, 0))
        async with app.client() as client:
            await client.connect()
            yield Queue(client, app.tasks[TASK])

    @asynccontextmanager
    async def shift(
        self, queue: Queue, order: Order, processes: int = 1, role: str = "work"
    ) -> AsyncIterator[Shift]:
        """Processes at work in the block; after it they have ended. Raises RunFailed if a job did not run once."""
        async with AsyncExitStack() as stack:
            names = [f"{role}-{number}" for number in range(processes)]
            hands = [await stack.enter_async_context(self._hand(role, order, name)) for name in names]
            for hand in hands:
                await hand.hear("ready", within_s=PATIENCE_S)
            shift = Shift(self, queue, hands, order)
            await shift.begin()
            yield shift
            await shift.end()
        await queue.check(shift.runs)

    @asynccontextmanager
    async def _hand(self, role: str, order: Order, name: str) -> AsyncIterator[Hand]:
        words = json.dumps(asdict(replace(order, file=str(self.folder / f"{name}.ledger"))))
        with (self.folder / f"{name}.err").open("wb") as stderr:
            # lowlevel: a nursery would cancel what is in the block when the process fails, and so hide why.
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "bench.scale.crew", role, words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
            )
        try:
            yield Hand(process, self.folder, name)
            with trio.move_on_after(PATIENCE_S):
                await process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True):  # bounded: it is dead
                await process.wait()
                assert process.stdin is not None
                assert process.stdout is not None
                await process.stdin.aclose()
                await process.stdout.aclose()


@asynccontextmanager
async def open_rig(server: ServerBinary | None = None) -> AsyncIterator[Rig]:
    """A rig with a server of its own, as `open_driver` has it."""
    async with open_driver(server) as driver:
        rig = Rig(driver.url, driver.redis, driver.server, driver.folder)
        async with rig.queue() as queue:
            await queue.send(
                CHUNK
            )  # what Redis keeps of scripts and buffers is not to be taken for that of jobs
        yield rig
