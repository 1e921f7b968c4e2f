"""arq: one Worker on uvloop, `max_jobs` as ordered, everything else at its defaults.

Docs: "Usage" (defining jobs, the pool), "API Reference" (Worker). A worker looks every 0.5 s (`poll_delay`), also while
there is more, for five times `max_jobs` at most: that is what bounds it here, not its processor time. Jobs are
coroutines only, the pickle serializer is the default. There is no bulk call: concurrent ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from arq import Worker, create_pool, func
from arq.connections import RedisSettings

from bench.peers.harness import LEDGER, Order
from bench.peers.ways import enqueue_on_asyncio


async def handle(_context: dict[str, Any], number: int, payload: str) -> None:
    await LEDGER.run_asyncio(number, payload)


async def _ready(_context: dict[str, Any]) -> None:
    LEDGER.ready()


def work(order: Order) -> None:
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        [func(handle, name="handle")],
        redis_settings=RedisSettings.from_dsn(order.url),
        max_jobs=order.concurrency,
        on_startup=_ready,
    ).run()


def enqueue(order: Order) -> None:
    uvloop.run(_enqueue(order))


async def _enqueue(order: Order) -> None:
    pool = await create_pool(RedisSettings.from_dsn(order.url))
    payload = order.payload
    await enqueue_on_asyncio(order, lambda number: pool.enqueue_job("handle", number, payload))
    await pool.aclose()
