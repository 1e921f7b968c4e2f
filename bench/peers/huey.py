"""huey: RedisHuey and the consumer with 8 worker threads, everything else at its defaults.

Docs: "Consuming Tasks" (worker types, -w), "Guide" (priority: PriorityRedisHuey). The consumer's own class runs in this
process, as `huey_consumer` would run it. Threads are all there is for waiting, so as many as jobs at once. There is no
bulk call: a loop.
"""

from __future__ import annotations

from typing import Any

from huey import PriorityRedisHuey, RedisHuey

from bench.peers.harness import LEDGER, Order, level
from bench.peers.ways import enqueue_in_threads


def handle(number: int, payload: str) -> None:
    LEDGER.run(number, payload)


def _declare(order: Order) -> tuple[Any, Any]:
    huey = (PriorityRedisHuey if order.priorities else RedisHuey)("bench", url=order.roomy_url)
    return huey, huey.task(name="handle")(handle)


def work(order: Order) -> None:
    huey, _ = _declare(order)
    consumer = huey.create_consumer(workers=order.concurrency if order.pause_s else order.threads)
    LEDGER.ready()
    consumer.run()


def enqueue(order: Order) -> None:
    _, task = _declare(order)
    payload = order.payload
    if order.priorities:
        enqueue_in_threads(order, lambda number: task(number, payload, priority=level(number)))
    else:
        enqueue_in_threads(order, lambda number: task(number, payload))
