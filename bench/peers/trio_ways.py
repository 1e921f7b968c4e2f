"""The ways to enqueue and the job itself, for queues that run on Trio. The rest is in harness.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from bench.peers.harness import LEDGER, Order
from bench.peers.ways import Stopwatch, shares

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def run_on_trio(number: int, payload: str, pause_s: float) -> None:
    """The job, for a handler on Trio."""
    started_s = time.monotonic()
    if pause_s:
        await trio.sleep(pause_s)
    LEDGER.note(number, payload, started_s)


async def enqueue_on_trio(
    order: Order,
    send: Callable[[int], Awaitable[object]],
    send_many: Callable[[range], Awaitable[object]],
) -> None:
    """Send every number, for clients on Trio."""

    async def send_each(numbers: range) -> None:
        for number in numbers:
            await send(number)

    async def send_one(number: int) -> None:
        await send(number)

    with Stopwatch(order) as watch:
        if order.way == "bulk":
            await send_many(range(order.jobs))
        elif order.way == "one":
            await send_each(range(order.jobs))
        elif order.way == "concurrent":
            async with trio.open_nursery() as nursery:
                for share in shares(order):
                    nursery.start_soon(send_each, share)
        else:
            due_s = watch.planned(order.plan())
            async with trio.open_nursery() as nursery:
                for number, at_s in enumerate(due_s):
                    if (wait_s := at_s - time.monotonic()) > 0:
                        await trio.sleep(wait_s)
                    nursery.start_soon(send_one, number)
