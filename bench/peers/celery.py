"""celery: the Redis transport, one worker process, no result backend (its default), JSON.

Docs: "Concurrency" (pools), "Using Redis" (message priorities). The pool is `solo` where jobs do not wait, its fastest
in one process; `threads` for handlers in threads and for jobs that wait, as many as jobs at once. Priorities are three
of the four steps of the Redis transport, lower numbers first, with `queue_order_strategy` as documented. There is no
bulk call: a loop.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_ready

from bench.peers.harness import LEDGER, PRIORITIES, Order, level
from bench.peers.ways import enqueue_in_threads

STEPS = (6, 3, 0)
"""The priority of each level, low first."""


def handle(number: int, payload: str) -> None:
    LEDGER.run(number, payload)


def _declare(order: Order) -> tuple[Any, Any]:
    app = Celery("bench", broker=order.url)
    app.conf.broker_connection_retry_on_startup = True
    if order.priorities:
        app.conf.broker_transport_options = {"queue_order_strategy": "priority"}
    return app, app.task(handle, name="handle")


def work(order: Order) -> None:
    app, _ = _declare(order)

    def ready(**_details: object) -> None:
        LEDGER.ready()

    worker_ready.connect(ready, weak=False)
    pool, size = ("solo", 1)
    if order.sync or order.pause_s:
        pool, size = ("threads", order.concurrency if order.pause_s else order.threads)
    app.worker_main(["worker", f"--pool={pool}", f"--concurrency={size}", "--loglevel=ERROR"])


def enqueue(order: Order) -> None:
    assert len(STEPS) == PRIORITIES
    _, task = _declare(order)
    payload = order.payload
    if order.priorities:
        enqueue_in_threads(
            order, lambda number: task.apply_async((number, payload), priority=STEPS[level(number)])
        )
    else:
        enqueue_in_threads(order, lambda number: task.delay(number, payload))
