"""saq: its Redis queue with hiredis, one Worker on uvloop, `concurrency` as ordered, the rest at its defaults.

Docs: "Getting started", and the README on the extra `hiredis`. A plain function runs in the worker's own thread pool,
whose size is Python's default and cannot be set. Priorities exist for PostgreSQL only. There is no bulk call that does
not wait for results: concurrent ones.
"""

from __future__ import annotations

from typing import Any

import uvloop
from saq import Queue, Worker

from bench.peers.harness import LEDGER, Order
from bench.peers.ways import enqueue_on_asyncio


async def handle(_context: dict[str, Any], *, number: int, payload: str) -> None:
    await LEDGER.run_asyncio(number, payload)


def handle_sync(_context: dict[str, Any], *, number: int, payload: str) -> None:
    LEDGER.run(number, payload)


async def _ready(_context: dict[str, Any]) -> None:
    LEDGER.ready()


def work(order: Order) -> None:
    uvloop.run(_work(order))


async def _work(order: Order) -> None:
    queue = Queue.from_url(order.roomy_url)
    await queue.connect()
    function = handle_sync if order.sync else handle
    await Worker(queue, [("handle", function)], concurrency=order.concurrency, startup=_ready).start()


def enqueue(order: Order) -> None:
    uvloop.run(_enqueue(order))


async def _enqueue(order: Order) -> None:
    queue = Queue.from_url(order.roomy_url)
    await queue.connect()
    payload = order.payload
    await enqueue_on_asyncio(order, lambda number: queue.enqueue("handle", number=number, payload=payload))
    await queue.disconnect()
