"""taskiq: ListQueueBroker (`list`) or RedisStreamBroker (`stream`), uvloop, no result backend (its default).

Docs: "Available brokers" of taskiq-redis, "Taskiq CLI" (uvloop is used if it is there; --max-async-tasks,
--max-threadpool-threads), "Programmatic receivers": `run_receiver_task` is what the command line runs in each process.
A plain function goes to the thread pool. There is no bulk call: concurrent ones. These brokers have no priorities.
"""

from __future__ import annotations

from typing import Any

import uvloop
from taskiq import TaskiqEvents, TaskiqState
from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from bench.peers.harness import LEDGER, Order
from bench.peers.ways import enqueue_on_asyncio


async def handle(number: int, payload: str) -> None:
    await LEDGER.run_asyncio(number, payload)


def handle_sync(number: int, payload: str) -> None:
    LEDGER.run(number, payload)


def _declare(order: Order) -> tuple[Any, Any]:
    broker = (ListQueueBroker if order.variant == "list" else RedisStreamBroker)(order.roomy_url)
    function = handle_sync if order.sync else handle
    return broker, broker.register_task(function, task_name="handle")


def work(order: Order) -> None:
    broker, _ = _declare(order)

    async def ready(_state: TaskiqState) -> None:
        LEDGER.ready()

    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, ready)
    uvloop.run(
        run_receiver_task(
            broker, sync_workers=order.threads, max_async_tasks=order.concurrency, run_startup=True
        )
    )


def enqueue(order: Order) -> None:
    uvloop.run(_enqueue(order))


async def _enqueue(order: Order) -> None:
    broker, task = _declare(order)
    payload = order.payload
    await broker.startup()
    await enqueue_on_asyncio(order, lambda number: task.kiq(number, payload))
    await broker.shutdown()
