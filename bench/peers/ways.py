"""The ways to enqueue an order's jobs, for clients that block and for clients on asyncio; trio_ways.py is for Trio.

Standard library only, and it knows no queue. A way measures the sends and nothing else: connect before.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.peers.harness import Order, cpu_s, peak_bytes, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

LEAD_S: Final = 0.3
"""The first planned send is so long after the plan was made."""


class Stopwatch:
    """Measures what is inside its block, which is the sends and nothing else, and says it."""

    def __init__(self, order: Order) -> None:
        self._file = order.file

    def __enter__(self) -> Stopwatch:
        say("ready", at_s=time.monotonic())
        self._cpu_s, self._began_s = cpu_s(), time.monotonic()
        return self

    def planned(self, plan: Sequence[float]) -> list[float]:
        """The plan by this machine's clock; the driver learns it from the file."""
        start_s = time.monotonic() + LEAD_S
        due_s = [start_s + at_s for at_s in plan]
        Path(self._file).write_text(json.dumps(due_s))
        return due_s

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        now_s = time.monotonic()
        if error is None:
            say(
                "done",
                at_s=now_s,
                seconds=now_s - self._began_s,
                cpu_s=cpu_s() - self._cpu_s,
                peak_bytes=peak_bytes(),
            )


def shares(order: Order) -> Iterator[range]:
    """The numbers of each of the concurrent enqueuers."""
    return (range(first, order.jobs, order.enqueuers) for first in range(order.enqueuers))


def enqueue_in_threads(
    order: Order, send: Callable[[int], object], send_many: Callable[[range], object] | None = None
) -> None:
    """Send every number, for clients that block. Without `send_many`, bulk is a loop of one thread."""

    def send_each(numbers: range) -> None:
        for number in numbers:
            send(number)

    with Stopwatch(order) as watch:
        if order.way == "bulk" and send_many is not None:
            send_many(range(order.jobs))
        elif order.way in ("bulk", "one"):
            send_each(range(order.jobs))
        elif order.way == "concurrent":
            _in_threads([partial(send_each, share) for share in shares(order)])
        else:
            turns = _Turns(watch.planned(order.plan()))
            _in_threads([partial(turns.take, send)] * order.enqueuers)


class _Turns:
    """A plan that threads share: whoever is free takes the next job, and sends it when it is due."""

    def __init__(self, due_s: Sequence[float]) -> None:
        self._due = enumerate(due_s)
        self._lock = threading.Lock()

    def take(self, send: Callable[[int], object]) -> None:
        while True:
            with self._lock:
                number, at_s = next(self._due, (-1, 0.0))
            if number < 0:
                return
            time.sleep(max(0.0, at_s - time.monotonic()))
            send(number)


def _in_threads(calls: Sequence[Callable[[], Any]]) -> None:
    with ThreadPoolExecutor(len(calls)) as pool:
        for call in [pool.submit(call) for call in calls]:
            call.result()


async def enqueue_on_asyncio(
    order: Order,
    send: Callable[[int], Awaitable[object]],
    send_many: Callable[[range], Awaitable[object]] | None = None,
) -> None:
    """Send every number, for clients on asyncio. Without `send_many`, bulk is the concurrent way, the faster one."""

    async def send_each(numbers: range) -> None:
        for number in numbers:
            await send(number)

    async def send_one(number: int) -> None:
        await send(number)

    with Stopwatch(order) as watch:
        if order.way == "bulk" and send_many is not None:
            await send_many(range(order.jobs))
        elif order.way == "one":
            await send_each(range(order.jobs))
        elif order.way in ("bulk", "concurrent"):
            async with asyncio.TaskGroup() as group:
                for share in shares(order):
                    group.create_task(send_each(share))
        else:
            due_s = watch.planned(order.plan())
            async with asyncio.TaskGroup() as group:
                for number, at_s in enumerate(due_s):
                    if (wait_s := at_s - time.monotonic()) > 0:
                        await asyncio.sleep(wait_s)
                    group.create_task(send_one(number))
