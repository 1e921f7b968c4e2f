"""What bench.scale runs in processes of their own: a worker, and a hammer that only claims and settles.

    python -m bench.scale.crew work|hammer ORDER

Settings are those of bench/peers/queue_trio.py. A process says `ready`, begins when a line comes on its standard input,
says `started` and in the end `done`. A worker drains when that input ends, so it never outlives who started it.

The ledger goes to a file: how often each job ran, a byte each, then when it started (of a hammer: when it was settled),
a double each.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio
from pydantic import SecretStr

from bench.catalogue import CONCURRENCY
from bench.peers.harness import cpu_s, say
from queue_trio import App
from queue_trio.core.dequeue import PRIORITIES
from queue_trio.core.job import Lane, Outcome, decode_record
from queue_trio.core.settings import HttpSettings, RedisSettings, Settings, WorkerSettings
from queue_trio.ops.service import open_http
from queue_trio.redis.client import Client
from queue_trio.redis.store import RedisStore
from queue_trio.runtime.worker import Worker

if TYPE_CHECKING:
    from queue_trio.core.job import ClaimedJob
    from queue_trio.ops.http import HttpServer

LANE: Final = Lane()
TASK: Final = "job"
SESSIONS: Final = 4
"""Of one hammer: while it makes up its mind about one reply, Redis works on the next call."""


@dataclass(frozen=True, slots=True)
class Order:
    """One run. `numbers`: jobs may have those below it. `mark`: a worker tells its CPU as of so many starts.

    `batch`: jobs per call of a hammer.
    """

    url: str
    numbers: int
    mark: int = 0
    concurrency: int = CONCURRENCY
    pause_s: float = 0.0
    batch: int = 0
    file: str = ""


class Ledger:
    """How often each job ran, and when it started last. All its memory is taken at once, so that a leak shows."""

    def __init__(self, order: Order) -> None:
        self.runs = bytearray(bytes(order.numbers))
        self.at_s = array("d", bytes(8 * order.numbers))
        self.cpu_s = 0.0
        self._order = order
        self._count = 0

    async def run(self, number: int) -> None:
        """The job."""
        self.at_s[number] = time.monotonic()
        self.runs[number] += 1
        self._count += 1
        if self._count == self._order.mark:
            self.cpu_s = cpu_s()
        if self._order.pause_s:
            await trio.sleep(self._order.pause_s)

    def close(self, began_cpu_s: float) -> None:
        """Write it down and say so."""
        used_s = (self.cpu_s or cpu_s()) - began_cpu_s
        Path(self._order.file).write_bytes(self.runs + self.at_s.tobytes())
        say("done", cpu_s=used_s)


def declare(order: Order) -> tuple[App, Ledger]:
    """The app, for workers and for who enqueues."""
    settings = Settings(
        redis=RedisSettings(url=SecretStr(order.url)),
        worker=WorkerSettings(concurrency=order.concurrency),
        http=HttpSettings(port=0),
    )
    app, ledger = App("bench", settings=settings), Ledger(order)
    app.task(name=TASK)(ledger.run)
    return app, ledger


def _wait_for_go() -> None:
    say("ready")
    sys.stdin.readline()


# --- a worker -------------------------------------------------------------------------------------------------------


def work(order: Order) -> None:
    app, ledger = declare(order)
    worker = Worker(app)
    http = open_http(worker)
    _wait_for_go()
    ledger.close(trio.run(_work, worker, http))


async def _work(worker: Worker, http: HttpServer | None) -> float:
    """The processor time when it began to claim."""
    async with trio.open_nursery() as beside:
        if http is not None:
            beside.start_soon(http.run)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            began_cpu_s = cpu_s()
            say("started", at_s=time.monotonic())
            await trio.lowlevel.wait_readable(0)
            worker.drain()
        beside.cancel_scope.cancel()
    return began_cpu_s


# --- a hammer -------------------------------------------------------------------------------------------------------


def hammer(order: Order) -> None:
    _wait_for_go()
    began_cpu_s, settled = trio.run(_hammer, order)
    ledger = Ledger(order)
    ledger.cpu_s = cpu_s()  # before the numbers are read, which is no part of moving jobs
    for job, at_s in settled:
        number = msgspec.json.decode(decode_record(job.raw).args, type=dict[str, int])["number"]
        ledger.runs[number] += 1
        ledger.at_s[number] = at_s
    ledger.close(began_cpu_s)


async def _hammer(order: Order) -> tuple[float, list[tuple[ClaimedJob, float]]]:
    """Processor time at the beginning, and what was settled when."""
    settings = RedisSettings(url=SecretStr(order.url))
    client = Client.from_settings(settings, name="queue-trio:bench:hammer")
    settled: list[tuple[ClaimedJob, float]] = []

    async def session() -> None:
        store = RedisStore(client)
        worker, lease_ms = store.incarnation, WorkerSettings().lease_ms
        while True:
            claim = await store.claim(
                LANE, worker=worker, want=order.batch, lease_ms=lease_ms, order=PRIORITIES
            )
            if not claim.jobs:
                break
            accepted = await store.settle(LANE, [Outcome(job.id, job.token) for job in claim.jobs])
            now_s = time.monotonic()
            settled.extend((job, now_s) for job, yes in zip(claim.jobs, accepted, strict=True) if yes)
        await store.aclose()

    try:
        await client.connect()
        began_cpu_s = cpu_s()
        say("started", at_s=time.monotonic())
        async with trio.open_nursery() as nursery:
            for _ in range(SESSIONS):
                nursery.start_soon(session)
    finally:
        await client.aclose()
    return began_cpu_s, settled


def main() -> None:
    role, order = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    {"work": work, "hammer": hammer}[role](Order(**json.loads(order)))


if __name__ == "__main__":
    main()
