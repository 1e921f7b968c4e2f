"""dramatiq: its Redis broker and the default middleware, one process, 8 worker threads (its default).

Docs: "User Guide" (workers, message prioritization), "Advanced Topics" (brokers). The command line starts such
processes, each with one Worker object; here it is that object itself. Asynchronous actors would still hold a thread
each, so the job that waits is a blocking one, with as many threads as jobs at once. A priority belongs to an actor, and
counts among the messages a worker has fetched already. There is no bulk call: a loop.
"""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers.harness import LEDGER, PRIORITIES, Order, level
from bench.peers.ways import enqueue_in_threads


def handle(number: int, payload: str) -> None:
    LEDGER.run(number, payload)


def _declare(order: Order) -> tuple[Any, list[Any]]:
    """The broker, and one actor per priority, low first. To dramatiq a lower number is more urgent."""
    broker = RedisBroker(url=order.roomy_url)
    dramatiq.set_broker(broker)
    actors = [
        dramatiq.actor(handle, actor_name=f"handle{rank}", priority=PRIORITIES - rank)
        for rank in range(PRIORITIES)
    ]
    return broker, actors


def work(order: Order) -> None:
    broker, _ = _declare(order)
    worker = dramatiq.Worker(broker, worker_threads=order.concurrency if order.pause_s else order.threads)
    LEDGER.ready()
    worker.start()
    threading.Event().wait()


def enqueue(order: Order) -> None:
    _, actors = _declare(order)
    payload = order.payload
    enqueue_in_threads(
        order, lambda number: actors[level(number) if order.priorities else 0].send(number, payload)
    )
