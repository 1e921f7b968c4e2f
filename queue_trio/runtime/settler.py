"""Group commit of outcomes: whatever has ended since the last round trip is settled in one script call.

Outcomes wait through an outage; the executor's leases and the fetcher's back-pressure bound how many there can be.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from queue_trio.core.store import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from queue_trio.core.job import Lane, Outcome
    from queue_trio.core.store import Store
    from queue_trio.tracing.spans import Spans

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Results and tracebacks per call, roughly."""


class Settler:
    """`on_settled(lane, outcome, accepted)` hears of every outcome once, when its fate is known."""

    def __init__(self, store: Store, *, spans: Spans | None = None) -> None:
        self._store = store
        self._spans = spans
        self._waiting: dict[Lane, deque[Outcome]] = {}
        self._work = trio.Event()
        self._progress = trio.Event()
        self._under_way: dict[Lane, list[Outcome]] = {}
        self.backlog = 0
        self.on_settled: Callable[[Lane, Outcome, bool], None] = lambda lane, outcome, accepted: None

    def add(self, lane: Lane, outcome: Outcome) -> None:
        """Settle this soon."""
        queue = self._waiting.get(lane)
        if queue is None:
            queue = self._waiting[lane] = deque()
        queue.append(outcome)
        self.backlog += 1
        self._work.set()

    async def wait_below(self, limit: int) -> None:
        """Return when fewer than `limit` outcomes wait."""
        while self.backlog >= limit:
            await self._progress.wait()

    async def run(self) -> None:
        """Settle for ever."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Settle everything that waits now. Cancelled half way, nothing is forgotten: it can be called again.

        Then the same batch goes out again first, so that the store can tell what became of it.
        """
        while self.backlog:
            # One batch of each lane in turn: no busy lane may keep the others waiting. A new lane may join meanwhile.
            for lane, queue in list(self._waiting.items()):
                if queue:
                    await self._settle(lane, queue)

    async def _settle(self, lane: Lane, queue: deque[Outcome]) -> None:
        batch = self._under_way.setdefault(lane, _batch(queue))
        began_ns = 0 if self._spans is None else self._spans.now_ns()
        accepted = await self._store.settle(lane, batch)
        del self._under_way[lane]
        if self._spans is not None:
            self._spans.settled(lane.queue, began_ns, batch, accepted)
        for outcome, yes in zip(batch, accepted, strict=True):
            queue.popleft()
            self.on_settled(lane, outcome, yes)
        self.backlog -= len(batch)
        self._progress.set()
        self._progress = trio.Event()


def _batch(queue: deque[Outcome]) -> list[Outcome]:
    batch: list[Outcome] = []
    size = 0
    for outcome in queue:
        size += len(outcome.detail)
        if len(batch) == MAX_BATCH or (batch and size > MAX_BATCH_BYTES):
            break
        batch.append(outcome)
    return batch
