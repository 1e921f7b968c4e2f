"""queue_trio, the same way as its peers: one worker process with its HTTP server, so that everything is measured.

Leases, timeouts, metrics and the stall watchdog are on, tracing is off, as by default. Concurrency and threads are as
ordered. The heap is frozen as the command line does it for a worker.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import structlog
import trio
from pydantic import SecretStr

from bench.peers.harness import LEDGER, Order, level
from bench.peers.trio_ways import enqueue_on_trio, run_on_trio
from queue_trio import App
from queue_trio.cli.worker import freeze_heap
from queue_trio.core.settings import HttpSettings, RedisSettings, Settings, TracingSettings, WorkerSettings
from queue_trio.ops.service import open_http
from queue_trio.runtime.worker import Worker

if TYPE_CHECKING:
    from queue_trio.app import Job, PriorityName
    from queue_trio.ops.http import HttpServer

LEVELS: Final[tuple[PriorityName, ...]] = ("low", "normal", "high")


def _declare(order: Order) -> App:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = Settings(
        redis=RedisSettings(url=SecretStr(order.url)),
        worker=WorkerSettings(concurrency=order.concurrency, threads=order.threads),
        http=HttpSettings(port=0),
        tracing=_tracing(order.variant),
    )
    app = App("bench", settings=settings)

    async def handle(number: int, payload: str) -> None:
        await run_on_trio(number, payload, order.pause_s)

    def handle_sync(number: int, payload: str) -> None:
        LEDGER.run(number, payload)

    app.task(name="handle")(handle_sync if order.sync else handle)
    return app


def _tracing(variant: str) -> TracingSettings:
    """Off; or of "traced RATIO PORT", what bench/tracing.py measures."""
    if not variant:
        return TracingSettings()
    _, ratio, port = variant.split()
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    return TracingSettings(enabled=True, endpoint=endpoint, sample_ratio=float(ratio))


def work(order: Order) -> None:
    worker = Worker(_declare(order))
    http = open_http(worker)
    freeze_heap()
    trio.run(_work, worker, http)


async def _work(worker: Worker, http: HttpServer | None) -> None:
    async with trio.open_nursery() as nursery:
        if http is not None:
            nursery.start_soon(http.run)
        await nursery.start(worker.run)
        LEDGER.ready()


def enqueue(order: Order) -> None:
    trio.run(_enqueue, order)


async def _enqueue(order: Order) -> None:
    app = _declare(order)
    task, payload = app.tasks["handle"], order.payload

    def made(number: int) -> Job:
        job = task.job(number, payload)
        return job.options(priority=LEVELS[level(number)]) if order.priorities else job

    async with app.client() as client:

        async def send(number: int) -> None:
            await client.enqueue(made(number))

        async def send_many(numbers: range) -> None:
            await client.enqueue_many(made(number) for number in numbers)

        await client.connect()
        freeze_heap()  # docs/tuning.md, "Some jobs start tens of milliseconds late"
        await enqueue_on_trio(order, send, send_many)
