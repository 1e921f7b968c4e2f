"""streaq, on asyncio with uvloop (`asyncio`) or on Trio (`trio`): one Worker, `concurrency` as ordered, else defaults.

Docs: "Getting started", "Worker" (anyio_backend, anyio_kwargs, sync_concurrency), "Task" (enqueue_many, priorities). A
plain function runs in a thread.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio
import uvloop
from streaq import Worker

from bench.peers.harness import LEDGER, Order, level
from bench.peers.trio_ways import enqueue_on_trio, run_on_trio
from bench.peers.ways import enqueue_on_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEVELS: Final = ("low", "normal", "high")


@asynccontextmanager
async def _lifespan() -> AsyncIterator[None]:
    LEDGER.ready()
    yield


def _declare(order: Order) -> tuple[Any, Any]:
    async def handle_asyncio(number: int, payload: str) -> None:
        await LEDGER.run_asyncio(number, payload)

    async def handle_trio(number: int, payload: str) -> None:
        await run_on_trio(number, payload, order.pause_s)

    def handle_sync(number: int, payload: str) -> None:
        LEDGER.run(number, payload)

    on_trio = order.variant == "trio"
    worker = Worker(
        redis_url=order.url,
        concurrency=order.concurrency,
        sync_concurrency=order.threads,
        priorities=list(LEVELS) if order.priorities else None,
        lifespan=_lifespan,
        anyio_backend="trio" if on_trio else "asyncio",
        anyio_kwargs={} if on_trio else {"use_uvloop": True},
    )
    function = handle_sync if order.sync else handle_trio if on_trio else handle_asyncio
    return worker, worker.task(name="handle")(function)


def work(order: Order) -> None:
    worker, _ = _declare(order)
    worker.run_sync()


def enqueue(order: Order) -> None:
    if order.variant == "trio":
        trio.run(_enqueue, order)
    else:
        uvloop.run(_enqueue(order))


async def _enqueue(order: Order) -> None:
    worker, task = _declare(order)
    payload = order.payload

    def made(number: int) -> Any:
        job = task.enqueue(number, payload)
        return job.start(priority=LEVELS[level(number)]) if order.priorities else job

    async def send(number: int) -> None:
        await made(number)

    async def send_many(numbers: range) -> None:
        await worker.enqueue_many([made(number) for number in numbers])

    ways = enqueue_on_trio if order.variant == "trio" else enqueue_on_asyncio
    async with worker:
        await ways(order, send, send_many)
