"""docket (pydocket): one Worker on uvloop, `concurrency` as ordered, everything else at its defaults.

Docs: "Getting Started", "Docket in production" (worker settings), and the API reference on `add_many`. Tasks are
coroutines only; there are no priorities. A worker with all its slots taken looks again after `minimum_check_interval`,
250 ms by default, and that is what limits it with short jobs.
"""

from __future__ import annotations

from typing import Final

import uvloop
from docket import Docket, Worker

from bench.peers.harness import LEDGER, Order
from bench.peers.ways import enqueue_on_asyncio

NAME: Final = "bench"


async def handle(number: int, payload: str) -> None:
    await LEDGER.run_asyncio(number, payload)


def work(order: Order) -> None:
    uvloop.run(_work(order))


async def _work(order: Order) -> None:
    async with Docket(name=NAME, url=order.roomy_url) as docket:
        docket.register(handle)
        async with Worker(docket, concurrency=order.concurrency) as worker:
            LEDGER.ready()
            await worker.run_forever()


def enqueue(order: Order) -> None:
    uvloop.run(_enqueue(order))


async def _enqueue(order: Order) -> None:
    payload = order.payload
    async with Docket(name=NAME, url=order.roomy_url) as docket:
        docket.register(handle)

        async def send(number: int) -> None:
            await docket.add(handle)(number, payload)

        async def send_many(numbers: range) -> None:
            await docket.add_many([docket.call(handle)(number, payload) for number in numbers])

        await enqueue_on_asyncio(order, send, send_many)
