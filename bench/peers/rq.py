"""rq: SimpleWorker, which runs jobs in its own process, one at a time; everything else at its defaults.

Docs: "Workers" (SimpleWorker, and queues in order of priority), "Queues" (enqueue_many). The default Worker forks for
every job and is slower still. Nothing runs at the same time in one worker, neither in threads nor by awaiting.
"""

from __future__ import annotations

from typing import Final

from redis import Redis
from rq import Queue, SimpleWorker

from bench.peers.harness import LEDGER, Order, level
from bench.peers.ways import enqueue_in_threads

LEVELS: Final = ("low", "normal", "high")
HANDLER: Final = "bench.peers.rq.handle"


def handle(number: int, payload: str) -> None:
    LEDGER.run(number, payload)


def work(order: Order) -> None:
    worker = SimpleWorker(list(reversed(LEVELS)), connection=Redis.from_url(order.url))
    LEDGER.ready()
    worker.work(logging_level="WARNING")


def enqueue(order: Order) -> None:
    redis = Redis.from_url(order.url)
    queues = [Queue(name, connection=redis) for name in LEVELS]
    payload = order.payload

    def send(number: int) -> None:
        queues[level(number) if order.priorities else 0].enqueue(HANDLER, number, payload)

    def send_many(numbers: range) -> None:
        queues[0].enqueue_many([Queue.prepare_data(HANDLER, (number, payload)) for number in numbers])

    enqueue_in_threads(order, send, None if order.priorities else send_many)
