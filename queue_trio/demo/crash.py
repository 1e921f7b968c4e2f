"""kill -9 for one worker, at a moment when it surely holds jobs, and what became of those."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from queue_trio.core.job import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queue_trio.core.job import Lane
    from queue_trio.core.store import Store
    from queue_trio.demo.fleet import WorkerProcess
    from queue_trio.demo.tasks import Result

LOOK_S = 0.005
LEASES_MAX = 500


@dataclass(frozen=True)
class Crash:
    """`orphans`: ids of the jobs that were leased to the worker when it died at `at_ms`."""

    number: int
    pid: int
    at_ms: float
    orphans: frozenset[str] = field(default_factory=frozenset)


async def kill_one(store: Store, lane: Lane, workers: Iterable[WorkerProcess]) -> Crash | None:
    """Kill one of `workers` that holds jobs; None if no one does just now."""
    for worker in workers:
        if not worker.id or not worker.alive:
            continue
        # Stopped first: a running one could finish everything between our look and the kill.
        os.kill(worker.pid, signal.SIGSTOP)
        if await _held(store, lane, worker):
            worker.process.kill()
            at_ms = time.time_ns() / 1e6
            await worker.process.wait()
            return Crash(worker.number, worker.pid, at_ms, await _held(store, lane, worker))
        os.kill(worker.pid, signal.SIGCONT)
    await trio.sleep(LOOK_S)
    return None


async def _held(store: Store, lane: Lane, worker: WorkerProcess) -> frozenset[str]:
    leased = await store.peek(lane, State.LEASED, count=LEASES_MAX)
    return frozenset(job.id for job in leased if job.owner and job.owner.startswith(f"{worker.id}:"))


@dataclass(frozen=True)
class Recovery:
    """`seconds`: from the kill to the end of the last orphan. `twice`: orphans that had run to their end before."""

    orphans: int
    recovered: int
    twice: int
    seconds: float


def recovery_of(crash: Crash, results: Sequence[Result]) -> Recovery:
    """What became of the killed worker's jobs."""
    theirs = [result for result in results if result.id in crash.orphans]
    before = {result.id for result in theirs if result.pid == crash.pid}
    after = {result.id: result.finished_ms for result in theirs if result.pid != crash.pid}
    seconds = max((finished_ms - crash.at_ms for finished_ms in after.values()), default=0.0) / 1000
    return Recovery(len(crash.orphans), len(after), len(before & after.keys()), seconds)
