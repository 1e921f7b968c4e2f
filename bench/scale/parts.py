"""What bench.scale measures: each part in groups of sizes, and one function that measures one size once.

Nothing here judges: whether each job ran exactly once is the rig's to say, and it does, for each of them.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil  # type: ignore[import-untyped]
import trio

from bench.figures import percentile
from bench.scale.crew import Order
from bench.scale.report import Sample, Soak
from queue_trio.core.dequeue import Priority

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bench.scale.rig import Rig

JOBS: Final = 20_000
SOAK_JOBS: Final = 10_000_000

BESIDES: Final[Mapping[str, Mapping[str, Any]]] = {
    "ready, same priority": {},
    "ready, lower priority": {"priority": "low"},
    "scheduled": {"delay": 86400.0},
}
"""The options of the jobs that are queued besides."""
PICKUPS: Final = 200
GAP_S: Final = 0.005
"""Before each pickup: long enough for an idle worker's fetcher to be blocked again."""
REFILL: Final = 2000
"""Jobs above the depth before each pickup: more than a worker drains in a gap and some round trips."""

PAUSES_S: Final = {"no-op": 0.0, "await 10 ms": 0.010}
WAITING_S: Final = 2.0
"""About so long those that wait shall take, but no more jobs than ordered."""

HAMMERS: Final = {"1 process": 1, "2 processes": 2}
HAMMERED: Final = 5
"""Times as many jobs as ordered, for nothing is run."""


@dataclass(frozen=True, slots=True)
class Part:
    """`measure` is given a rig, a group, a size and how many jobs. Raises RunFailed."""

    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    measure: Callable[[Rig, str, int, int], Awaitable[dict[str, float]]]


async def depth(rig: Rig, group: str, size: int, jobs: int) -> dict[str, float]:
    """Run `jobs` while `size` others are queued; then see how soon urgent ones start, sent one by one.

    Where the others are ready, no worker is idle: then the urgent come while it drains them, and between two of them
    the queue is filled up again. The time of each runs from before it is sent.
    """
    options, pickups = BESIDES[group], min(PICKUPS, jobs)
    idle = "delay" in options
    order = Order(rig.url, size + jobs + pickups * (REFILL + 1), mark=jobs)
    sent_s: dict[int, float] = {}
    async with rig.queue() as queue:
        empty = await rig.usage()
        await queue.send(size, **options)
        bytes_per_job = ((await rig.usage()).memory_bytes - empty.memory_bytes) / size
        await queue.send(jobs)
        async with rig.shift(queue, order) as shift:
            await shift.run()
            for _ in range(pickups):
                if not idle:
                    await queue.send(min(size + REFILL - (await queue.stats()).ready_total, REFILL))
                await trio.sleep(GAP_S)
                sent_s[queue.sent] = time.monotonic()
                await queue.send(1, priority="high")
            await shift.until(lambda stats: not stats.ready[Priority.HIGH])
    waits_ms = sorted((shift.at_s[0][number] - at_s) * 1000 for number, at_s in sent_s.items())
    return shift.figures() | {
        "pickup_p50_ms": percentile(waits_ms, 50),
        "pickup_p99_ms": percentile(waits_ms, 99),
        "redis_bytes_per_job": bytes_per_job,
    }


async def concurrency(rig: Rig, group: str, size: int, jobs: int) -> dict[str, float]:
    """Run `jobs`, `size` at once; of those that wait, as many as suit the time."""
    pause_s = PAUSES_S[group]
    if pause_s:
        jobs = min(jobs, round(size / pause_s * WAITING_S))
    async with rig.queue() as queue:
        await queue.send(jobs)
        order = Order(rig.url, jobs, mark=jobs, concurrency=size, pause_s=pause_s)
        async with rig.shift(queue, order) as shift:
            await shift.run()
    figures = shift.figures()
    if pause_s:
        figures["ideal_percent"] = figures["run_per_s"] * pause_s / size * 100
    return figures


async def processes(rig: Rig, group: str, size: int, jobs: int) -> dict[str, float]:
    """Run `jobs` for each of `size` worker processes."""
    async with rig.queue() as queue:
        await queue.send(jobs * size)
        async with rig.shift(queue, Order(rig.url, jobs * size, mark=jobs * size), size) as shift:
            await shift.run()
    return shift.figures()


async def saturation(rig: Rig, group: str, size: int, jobs: int) -> dict[str, float]:
    """Claim and settle, `size` per call. Redis's own time tells what it could do with a core to itself."""
    jobs *= HAMMERED
    async with rig.queue() as queue:
        await queue.send(jobs)
        order = Order(rig.url, jobs, mark=jobs, batch=size)
        async with rig.shift(queue, order, HAMMERS[group], "hammer") as shift:
            await shift.run()
    return shift.figures()


PARTS: Final[Mapping[str, Part]] = {
    "depth": Part(tuple(BESIDES), (10_000, 100_000, 1_000_000), depth),
    "concurrency": Part(tuple(PAUSES_S), (1, 4, 16, 32, 100, 300, 1000), concurrency),
    "processes": Part(("no-op",), (1, 2, 4), processes),
    "saturation": Part(tuple(HAMMERS), (16, 32, 100, 500), saturation),
}


async def soak(
    rig: Rig,
    jobs: int,
    keep: Callable[[Soak], None],
    *,
    low: int = 20_000,
    high: int = 50_000,
) -> Soak:
    """Run `jobs` in one process while this one keeps between `low` and `high` queued; a sample whenever `low` are left.

    `keep` is given what there is after each sample.
    """
    result, ourselves = Soak(low, high), psutil.Process(os.getpid())
    async with rig.queue() as queue, rig.shift(queue, Order(rig.url, jobs, mark=jobs)) as shift:
        worker = psutil.Process(shift.hands[0].pid)
        while queue.sent < jobs:
            await queue.send(min(high - low, jobs - queue.sent))
            stats = await shift.until(lambda stats: stats.completed >= queue.sent - low)
            used = await rig.usage()
            result.samples.append(
                Sample(
                    jobs=stats.completed,
                    seconds=time.monotonic() - shift.began_s,
                    queued=queue.sent - stats.completed,
                    redis_bytes=used.memory_bytes,
                    worker_bytes=worker.memory_info().rss,
                    producer_bytes=ourselves.memory_info().rss,
                    keys=used.keys,
                )
            )
            keep(result)
        await shift.run()
        result.seconds = time.monotonic() - shift.began_s
    result.jobs = jobs
    result.cpu_us_per_job = shift.cpu_s / jobs * 1e6
    return result
